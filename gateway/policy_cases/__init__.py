"""Policy cases: what a policy folder says of calls that are described in files beside it.

`document` is what stands in a file, `run` what comes of a case, `check` goes through the files of a
folder. All decisions are those of the data path (`rehearsal`).
"""
