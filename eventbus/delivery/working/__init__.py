"""The dispatcher's thread at work: what it takes in, sends, and does about what is refused.

`intake` bounds the memory, `courier` is the thread, `desk` one turn of it, `outlet` the way to the broker. `refusals`
decides over what the broker returned or refused.
"""
