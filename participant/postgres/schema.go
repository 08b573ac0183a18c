package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cohort-tx/cohort/participant"
)

// schemaVersion is the newest form of schema cohort that this package knows.
const schemaVersion = 1

// setupLock is the advisory lock under which schema cohort is made: instances may
// start at the same time.
const setupLock = 0x636f686f7274

// migrations take schema cohort from one version to the next: the first from none
// to 1. They are never changed, only added to.
var migrations = []string{`
create schema cohort;
comment on schema cohort is 'What the consistency group knows of this database. Made by participant/postgres.';
create table cohort.version (version int not null);
insert into cohort.version values (0);

-- How far each participant that keeps its state here has come in its group's log.
create table cohort.applied (
  grp text not null, participant text not null, incarnation bigint not null, position bigint not null,
  primary key (grp, participant)
);
-- SQL transactions that are committed here and not yet passed in the log. A row is
-- inserted in the transaction itself, so that it is here exactly if that committed.
create table cohort.transactions (
  lot text primary key, grp text not null, participant text not null, id text not null, begun bigint not null,
  at timestamptz not null default now()
);
-- Transaction ids too long for a gid, by their hash.
create table cohort.ids (hash text primary key, id text not null, at timestamptz not null default now());
-- Tracked tables, and how rows whose keys were noted are read.
create table cohort.tables (name text primary key, grp text not null, participant text not null, take text not null);
-- Keys of the rows that a transaction under way has changed. They never outlive it.
create unlogged table cohort.changes (xid xid8 not null, tbl text not null, key text[] not null)
  with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
create index on cohort.changes (xid);

-- take returns the rows that the transaction has changed since it was last asked,
-- as they are now: no values for a row that is gone.
create function cohort.take() returns table (tbl text, key text[], vals text[]) language plpgsql
set search_path = pg_catalog, pg_temp` + dateStyles + `
set enable_hashjoin = off set enable_mergejoin = off as $cohort$
declare
  query text;
begin
  for query in select t.take from cohort.tables t
    where t.name in (select c.tbl from cohort.changes c where c.xid = pg_current_xact_id()) order by t.name
  loop
    return query execute query using pg_current_xact_id();
  end loop;
  delete from cohort.changes c where c.xid = pg_current_xact_id();
end
$cohort$;

-- ready is asked before a transaction is prepared. lot is null when it has no
-- changes that the log knows of.
create function cohort.ready(lot text, grp text, participant text, id text, begun bigint, owner text) returns void language plpgsql
set search_path = pg_catalog, pg_temp as $cohort$
begin
  if current_setting('cohort.attempt', true) is distinct from owner then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = 'the SQL transaction is not the one that its first step began',
      hint = 'A handler must neither commit nor roll back.';
  end if;
  if exists (select from cohort.changes c where c.xid = pg_current_xact_id()) then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = 'a deferred trigger changed rows after their step had ended, so the log does not have them',
      hint = 'Make it fire in its step: SET CONSTRAINTS … IMMEDIATE at its end.';
  end if;
  if lot is not null then
    insert into cohort.transactions values (lot, grp, participant, id, begun);
  end if;
end
$cohort$;

create function cohort.refuse_truncate() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $cohort$
begin
  if current_setting('cohort.attempt', true) is distinct from 'unlogged' then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('table %s belongs to a consistency group, whose log cannot have a TRUNCATE', tg_argv[0]),
      hint = 'DELETE its rows in a step.';
  end if;
  return null;
end
$cohort$;
`}

// Setup makes what the participant needs in the database, or brings it up to date:
// schema cohort, and triggers on the tracked tables. Open does so by itself; call
// Setup where the role that runs the application may not, as one that may create a
// schema and owns the tables, with the application's role as Config.Role. Calling
// it again changes nothing.
func Setup(ctx context.Context, pool *pgxpool.Pool, group *participant.Group, name string, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	own, err := ownPool(ctx, pool, name)
	if err != nil {
		return err
	}
	defer own.Close()
	tables, err := loadAll(ctx, pool, own, cfg.Tables)
	if err != nil {
		return err
	}
	return setup(ctx, own, group.Name(), name, tables, cfg)
}

// loadAll reads the tracked tables from the catalog, and returns all faults.
func loadAll(ctx context.Context, app, own *pgxpool.Pool, wanted []string) ([]*table, error) {
	oids, err := resolve(ctx, app, wanted)
	errs := []error{err}
	var tables []*table
	for _, oid := range oids {
		t, err := load(ctx, own, oid)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		tables = append(tables, t)
	}
	errs = append(errs, checkForeignKeys(ctx, own, oids))
	return tables, errors.Join(errs...)
}

// checkForeignKeys refuses references from tables that are not tracked to ones
// that are: a restore replaces the rows that they refer to.
func checkForeignKeys(ctx context.Context, q querier, tracked []uint32) error {
	rows, err := q.Query(ctx, `
		select conname, conrelid::pg_catalog.regclass::text, confrelid::pg_catalog.regclass::text from pg_catalog.pg_constraint
		where contype = 'f' and conparentid = 0 and confrelid = any($1) and not conrelid = any($1)`, tracked)
	if err != nil {
		return fmt.Errorf("postgres: read foreign keys: %w", err)
	}
	var errs []error
	var name, from, to string
	_, err = pgx.ForEachRow(rows, []any{&name, &from, &to}, func() error {
		errs = append(errs, fmt.Errorf("postgres: foreign key %s refers from table %s, which is not tracked, to %s, which is: add %s to Config.Tables", name, from, to, from))
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// setup runs in one transaction. It takes locks on tables only where a trigger is
// missing: transactions in doubt may hold others on them.
func setup(ctx context.Context, own *pgxpool.Pool, group, name string, tables []*table, cfg Config) error {
	return pgx.BeginFunc(ctx, own, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", int64(setupLock)); err != nil {
			return fmt.Errorf("postgres: wait for another setup: %w", err)
		}
		version, err := readVersion(ctx, tx)
		if err != nil {
			return err
		}
		for v := version; v < schemaVersion; v++ {
			if _, err := tx.Exec(ctx, migrations[v]+"; update cohort.version set version = version + 1"); err != nil {
				return needs(err, "make schema cohort", "GRANT CREATE ON DATABASE … to the application's role, or run postgres.Setup once as a role that has it")
			}
		}
		for _, t := range tables {
			if err := setupTable(ctx, tx, t, group, name); err != nil {
				return err
			}
		}
		if err := forgetTables(ctx, tx, group, name, tables); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "insert into cohort.applied values ($1, $2, 0, 0) on conflict do nothing", group, name); err != nil {
			return needs(err, "write to schema cohort", "run postgres.Setup as its owner, with the application's role as Config.Role")
		}
		if cfg.Role != "" {
			role := quote(cfg.Role)
			if _, err := tx.Exec(ctx, "grant usage on schema cohort to "+role+"; grant select, insert, update, delete on all tables in schema cohort to "+role); err != nil {
				return fmt.Errorf("postgres: grant %s what it needs: %w", role, err)
			}
		}
		return nil
	})
}

// readVersion is 0 where there is no schema cohort.
func readVersion(ctx context.Context, q querier) (int, error) {
	var exists bool
	if err := q.QueryRow(ctx, "select exists (select from pg_catalog.pg_namespace where nspname = 'cohort')").Scan(&exists); err != nil || !exists {
		return 0, err
	}
	var table *uint32
	var version int
	err := q.QueryRow(ctx, "select to_regclass('cohort.version')::oid").Scan(&table)
	if err == nil && table == nil {
		return 0, errors.New("postgres: the database has a schema cohort that this package did not make: rename it")
	}
	if err == nil {
		err = q.QueryRow(ctx, "select version from cohort.version").Scan(&version)
	}
	if err != nil {
		return 0, needs(err, "read schema cohort", "run postgres.Setup as its owner, with the application's role as Config.Role")
	}
	if version > schemaVersion {
		return 0, fmt.Errorf("postgres: schema cohort has version %d, this release knows versions up to %d: use the release that made it or a newer one", version, schemaVersion)
	}
	return version, nil
}

// setupTable registers a table and has its changes noted.
func setupTable(ctx context.Context, tx pgx.Tx, t *table, group, name string) error {
	var grp, participant, take string
	err := tx.QueryRow(ctx, "select grp, participant, take from cohort.tables where name = $1", t.name).Scan(&grp, &participant, &take)
	switch {
	case err == nil && (grp != group || participant != name):
		return fmt.Errorf("postgres: table %s belongs to participant %s of group %s: a table is one participant's", t.name, participant, grp)
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return needs(err, "read schema cohort", "run postgres.Setup as its owner, with the application's role as Config.Role")
	}
	function, want := t.triggerFunction(), t.trigger(owner(group, name))
	var body *string
	var triggers int
	err = tx.QueryRow(ctx, `select
		(select p.prosrc from pg_catalog.pg_proc p where p.oid = to_regprocedure($1 || '()')),
		(select count(*) from pg_catalog.pg_trigger g where g.tgrelid = $2 and g.tgname in ('zz_cohort_capture', 'zz_cohort_truncate') and g.tgenabled in ('O', 'A'))`,
		function, t.oid).Scan(&body, &triggers)
	if err != nil {
		return fmt.Errorf("postgres: read the triggers of %s: %w", t.name, err)
	}
	owned := "run postgres.Setup once as the owner of the table"
	if body == nil || !strings.Contains(want, *body) {
		if _, err := tx.Exec(ctx, want); err != nil {
			return needs(err, "make the trigger of table "+t.name, owned)
		}
	}
	if triggers < 2 {
		_, err := tx.Exec(ctx, "set local lock_timeout = '5s'"+
			"; create or replace trigger zz_cohort_capture after insert or update or delete on "+t.name+" for each row execute function "+function+"()"+
			"; create or replace trigger zz_cohort_truncate before truncate on "+t.name+" for each statement execute function cohort.refuse_truncate("+literal(t.name)+")"+
			"; set local lock_timeout = 0")
		if code(err) == codeLockNotAvailable {
			return fmt.Errorf("postgres: table %s is in use, so it cannot get its triggers: end the transactions on it, prepared ones too (pg_prepared_xacts), and start again: %w", t.name, err)
		}
		if err != nil {
			return needs(err, "put triggers on table "+t.name, owned)
		}
	}
	if want := t.take(); take != want {
		_, err := tx.Exec(ctx, "insert into cohort.tables values ($1, $2, $3, $4) on conflict (name) do update set take = excluded.take", t.name, group, name, want)
		if err != nil {
			return needs(err, "write to schema cohort", "run postgres.Setup as its owner, with the application's role as Config.Role")
		}
	}
	return nil
}

// forgetTables takes the triggers off tables that are not tracked any more.
func forgetTables(ctx context.Context, tx pgx.Tx, group, name string, tables []*table) error {
	rows, err := tx.Query(ctx, "select name, to_regclass(name) is not null from cohort.tables where grp = $1 and participant = $2 and not name = any($3)", group, name, tableNames(tables))
	if err != nil {
		return fmt.Errorf("postgres: read schema cohort: %w", err)
	}
	var drop strings.Builder
	var table string
	var exists bool
	_, err = pgx.ForEachRow(rows, []any{&table, &exists}, func() error {
		if exists {
			fmt.Fprintf(&drop, "drop trigger if exists zz_cohort_capture on %[1]s; drop trigger if exists zz_cohort_truncate on %[1]s;", table)
		}
		fmt.Fprintf(&drop, "delete from cohort.tables where name = %s;", literal(table))
		return nil
	})
	if err == nil && drop.Len() > 0 {
		_, err = tx.Exec(ctx, "set local lock_timeout = '5s';"+drop.String())
	}
	if err != nil {
		return needs(err, "take triggers off tables that are not tracked any more", "run postgres.Setup once as the owner of the tables")
	}
	return nil
}
