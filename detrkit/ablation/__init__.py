"""The ablation laboratory: what a part is worth, with an honest interval.

- `study`: what is asked; `variations`: what ``--vary`` asks for -> variants of a base.
- `runner`: its runs, trained once; `identity`: what a run's numbers depend on.
- `statistics`: numbers of runs -> intervals and p-values; `conclusions`: what they allow one to say.
- `costs`: what a variant costs, in parameters, multiplications, time and memory.
- `instruments`: how training behaves, beside how it ends; `recording`: what runs write down for them.
- `results`: all of it as JSON, `behaviour` of it how training went; `text`: for people; `report` and `drawings`: as a
  page; `command`: ``detrkit ablate``.

`study`, `variations`, `statistics`, `conclusions` and `drawings` import no torch.
"""
