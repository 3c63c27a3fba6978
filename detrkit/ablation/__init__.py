"""The ablation laboratory: what a part is worth, with an honest interval.

- `variations`: what ``--vary`` asks for -> variants of a base.
- `statistics`: numbers of runs -> intervals and p-values; `conclusions`: what they allow one to say.
- `costs`: what a variant costs, in parameters, multiplications, time and memory.
- `instruments`: how training behaves, beside how it ends.

Imports no torch; `costs` and `instruments` do.
"""
