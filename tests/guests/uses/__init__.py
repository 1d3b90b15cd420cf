"""Programs of real use of other people's packages: each yields from `use()` what its user sees.

`DATABASE` is the URL, in the working directory; `MODELS` are the classes whose rows are compared with the files;
`EXCLUDE`, if any, are tables without a class; `UNSEEN`, if any, tells which differences
are known, with the reason.
"""
