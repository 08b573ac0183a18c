// Package postgres makes a PostgreSQL database a participant of a consistency
// group: what steps change in it commits with the group's transaction or not at
// all, by PREPARE TRANSACTION. The application hands over its pgx pool and keeps
// its queries:
//
//	db, err := postgres.Open(ctx, pool, client.Group("shop"), "bank", postgres.Config{Tables: []string{"accounts"}})
//	defer db.Close()
//	app := participant.New("shop", "bank")
//	db.Attach(app)
//	app.Handle("deposit", postgres.Func(db, func(ctx context.Context, tx *postgres.Tx, in Deposit) (Receipt, error) {
//		_, err := tx.Exec(ctx, "update accounts set balance = balance + $2 where id = $1", in.Account, in.Amount)
//		return Receipt{}, err
//	}))
//	err = app.Serve(ctx, "127.0.0.1:7070")
//
// # A transaction
//
// Each attempt has one SQL transaction here, from its first step on. Row triggers
// on the tracked tables note the keys of what changes; at a step's end those rows
// are read as they are by then and staged in the group's log (StepTx.Log): the log
// holds rows as they became, so redoing needs none of the application's code.
//
//	step ─▶ BEGIN ─▶ handler ─▶ rows staged      more steps: the same transaction
//	vote ─▶ PREPARE TRANSACTION 'cohort1:…'      yes, binding through any crash
//	entry followed ─▶ COMMIT PREPARED ─▶ position stored
//	abort heard, or asked for ─▶ ROLLBACK PREPARED
//
// An SQL transaction's name is its lot, 16 random bytes. The lot is in each change
// that it stages, in its gid, and in a row of cohort.transactions that it inserts
// itself. Following the log thus tells exactly what is missing: a lot that is in
// cohort.transactions is passed over, one that is prepared is committed, anything
// else is redone. The gid also has a digest of the changes; when the log has others
// (the answer of a step got lost and its caller went on without it), the prepared
// transaction is rolled back and the log's changes are made instead. The position
// is stored in the SQL transaction that redoes, after the commits; a crash between
// leaves lots that are passed over when their entries come again.
//
// # Isolation
//
// SQL transactions run at READ COMMITTED and hold their locks until the decision is
// applied here. What a step changes or locks (SELECT … FOR SHARE, FOR UPDATE) is as
// strict as the group; what it only reads may be old by the time it commits, and
// may lack transactions that are committed and not applied here yet. So lock what
// a decision rests on.
//
// # What happens when things die
//
//	application, before the vote        PostgreSQL rolls the SQL transaction back
//	application, after the vote         prepared; settled when an instance is served again
//	application, after COMMIT PREPARED  the lot is present: passed over
//	PostgreSQL, before the vote         steps fail as conflicts, or the vote is no
//	PostgreSQL, in PREPARE              the vote is no; if it was prepared it is rolled back
//	PostgreSQL, after the vote          prepared, locks and all, when it is back
//	PostgreSQL, while applying          Apply fails; the instance begins anew at its position
//	PostgreSQL, promoted standby        its position is what it has; the log brings the rest
//	PostgreSQL, while capturing         the checkpoint is abandoned
//	either, while restoring             one SQL transaction: what was there before is
//	the group's coordinator             what is prepared waits; asked every Config.ResolveEvery
//
// Everything of ours that is in doubt when an instance attaches is settled before
// the log's changes are redone, since its locks could be in their way: by
// Group.Outcome, and what no coordinator has open by Outcome with Settle. What the
// group has forgotten (UnknownBeforeHorizon) is looked for in the log. While the
// application runs, a resolver does the same with what it was told nothing of. Only
// gids of exactly this group and participant, in this database, are touched.
//
// # Schema cohort
//
//	version       of the schema
//	applied       position of each participant that has its state in this database
//	transactions  lots that are committed here and not passed in the log yet
//	tables        tracked tables
//	changes       keys of rows that transactions under way have changed (unlogged)
//	ids           transaction ids that are too long for a gid
//
// Changing a tracked table outside of a step is an error, and so is TRUNCATE.
//
// # Changes in the log
//
// JSON, one or more a step: {"v":1, "lot":…, "tables":[{"table", "columns", "put":
// [[…]], "key", "delete":[[…]]}]}. Values are PostgreSQL's text form, as pg_dump
// has it, null for NULL.
//
// # A captured database
//
// Capture keeps a snapshot (pg_export_snapshot) and streams the tracked tables as
// COPY gives them:
//
//	stream   "cohortpg" | version u32 | blocks
//	block    kind u8 | length u32 | payload | crc32c u32
//	blocks   header, then for each table: table, rows…, and at last end
//
// Integers are big-endian; the checksum covers kind, length and payload. Header,
// table and end are JSON; the header has the sequences that feed tracked columns.
// Restore empties the tables and copies the rows in, in one SQL transaction.
package postgres
