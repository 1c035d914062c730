"""Questions in, answers and scores out: the answering engine, the benchmarks, the files they write."""
