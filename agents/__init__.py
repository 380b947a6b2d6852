"""Ready-made agents. Run one with `mesh run NAME`; each is a short file over the public API, to use as it is or to start from.

| name | capabilities | what it does |
|---|---|---|
| collector | data.collect | reads a CSV file, whatever its dialect, into one plain table |
| quality | data.quality | profiles every column, sets aside the rows that cannot be right, and says why |
| transform | data.transform | groups by month or category; means with bootstrap confidence intervals |
| report | report.render | an HTML page with charts, and a PNG |
| pipeline | pipeline.run | drives the four above, step by step, and survives the death of any of them |
"""
