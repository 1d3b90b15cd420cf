"""The history of the mirror: every transaction, every version of every record, and who changed which field.

The mirror notes the events in its `journal`. The `historian` puts them together again to transactions (`assembly`),
numbers these in the order of their commits, and keeps them in `history.sqlite3` (`store`). The commands (`commands`)
read that file only (`reading`); the git repository (`git`) is a view that is made of it and can be made again.
"""
