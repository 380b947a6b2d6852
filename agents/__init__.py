"""Ready-made agents. Run one with `mesh run NAME`; each is a short file over the public API, to use as it is or to start from.

| name | capabilities | what it does |
|---|---|---|
| collector | data.collect | reads a CSV file, whatever its dialect, into one plain table |
| quality | data.quality | profiles every column, sets aside the rows that cannot be right, and says why |
| transform | data.transform | groups by month or category; means with bootstrap confidence intervals |
| report | report.render | an HTML page with charts, and a PNG |
| pipeline | pipeline.run | drives the four above, step by step, and survives the death of any of them |
| triage | triage.classify | sorts a message: queue, urgency, language, risks, by keywords it names |
| knowledge | kb.ingest, kb.search | full-text search over a folder of documents (SQLite FTS5), as a file that travels |
| responder | reply.draft | a reply that quotes passages, cites them, and adds nothing |
| support | support.answer | drives the three above, and asks a person before anything risky is sent |
| auditor | payout.evidence, payout.check, payout.report | reads the papers of a payment, matches them, writes down how it went |
| payout | payout.run | pays once what two nodes other than the owner's have approved, on exactly these papers |
"""
