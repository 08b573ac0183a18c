package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// querier is what both a connection and a pool do.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// table is a tracked table as the catalog has it.
type table struct {
	oid uint32
	// name is qualified, and quoted as SQL needs it.
	name    string
	columns []column
	key     []column
	// partitioned tables have their rows in others.
	partitioned bool
	// triggers tells that others than ours fire on it, foreign keys' included.
	triggers  bool
	sequences []sequence
}

type column struct {
	name, typ string
	// generated columns are computed, so they are neither logged nor written.
	generated bool
	// always is an identity that takes no other value in an update.
	always bool
	inKey  bool
}

// sequence feeds a column.
type sequence struct{ name, column string }

// quote makes a name one of SQL's.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// literal makes a text one of SQL's. It needs standard_conforming_strings, which
// is checked at start.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// written are the columns whose values a row consists of.
func (t *table) written() []column {
	var out []column
	for _, c := range t.columns {
		if !c.generated {
			out = append(out, c)
		}
	}
	return out
}

// stored names them.
func (t *table) stored() []string { return names(t.written()) }

func (t *table) keyNames() []string { return names(t.key) }

func names(columns []column) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.name
	}
	return out
}

func (t *table) column(name string) (column, bool) {
	for _, c := range t.columns {
		if c.name == name {
			return c, true
		}
	}
	return column{}, false
}

// alwaysOutsideKey tells that a row of it cannot be updated to a given one.
func (t *table) alwaysOutsideKey() bool {
	for _, c := range t.columns {
		if c.always && !c.inKey {
			return true
		}
	}
	return false
}

// textOf is an expression for a column's value in PostgreSQL's own text form, the
// one that COPY and pg_dump rely on. A cast to text is not always that.
func textOf(column string) string {
	return "case when " + column + " is distinct from null then pg_catalog.format('%s', " + column + ") end"
}

// take is the query that reads the rows whose keys transaction $1 has noted.
func (t *table) take() string {
	var values, on []string
	for _, c := range t.written() {
		values = append(values, textOf("t."+quote(c.name)))
	}
	for i, c := range t.key {
		on = append(on, fmt.Sprintf("t.%s = k.key[%d]::%s", quote(c.name), i+1, c.typ))
	}
	return fmt.Sprintf("select %s::text, k.key, case when t.%s is null then null else array[%s] end"+
		" from (select distinct c.key from cohort.changes c where c.xid = $1 and c.tbl = %s) k left join %s t on %s order by k.key",
		literal(t.name), quote(t.key[0].name), strings.Join(values, ", "), literal(t.name), t.name, strings.Join(on, " and "))
}

// triggerFunction names the function that notes which rows change.
func (t *table) triggerFunction() string {
	sum := sha256.Sum256([]byte(t.name))
	return "cohort.capture_" + fmt.Sprintf("%x", sum[:8])
}

// dateStyles are the settings that give values a text form that does not depend on
// the session.
const dateStyles = " set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set extra_float_digits = 3 set timezone = 'UTC' set bytea_output = 'hex' set lc_monetary = 'C'"

// plainTypes have one text form whatever the session says.
var plainTypes = map[string]bool{"smallint": true, "integer": true, "bigint": true, "text": true, "uuid": true, "boolean": true, "character varying": true, "numeric": true}

// trigger makes that function, for owner's steps.
func (t *table) trigger(owner string) string {
	var oldKey, newKey, same, types []string
	settings := ""
	for _, c := range t.key {
		oldKey = append(oldKey, "pg_catalog.format('%s', old."+quote(c.name)+")")
		newKey = append(newKey, "pg_catalog.format('%s', new."+quote(c.name)+")")
		same = append(same, "old."+quote(c.name)+" is distinct from new."+quote(c.name))
		types = append(types, c.typ)
		if base, _, _ := strings.Cut(c.typ, "("); !plainTypes[base] {
			settings = dateStyles
		}
	}
	return fmt.Sprintf(`create or replace function %[1]s() returns trigger language plpgsql%[2]s as $cohort$
declare
  owner text := pg_catalog.current_setting('cohort.attempt', true); -- keys: %[8]s
begin
  if owner = 'unlogged' then
    return null;
  end if;
  if owner is distinct from %[3]s then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = pg_catalog.format('table %%s belongs to a consistency group (%%s) and was changed outside of it', %[4]s, %[3]s),
      hint = 'Change it in a step of that participant. Maintenance that no log needs to know of: SET LOCAL cohort.attempt = ''unlogged''.';
  end if;
  if tg_op = 'DELETE' or tg_op = 'UPDATE' and (%[7]s) then
    insert into cohort.changes (xid, tbl, key) values (pg_catalog.pg_current_xact_id(), %[4]s, array[%[5]s]);
  end if;
  if tg_op <> 'DELETE' then
    insert into cohort.changes (xid, tbl, key) values (pg_catalog.pg_current_xact_id(), %[4]s, array[%[6]s]);
  end if;
  return null;
end
$cohort$`, t.triggerFunction(), settings, literal(owner), literal(t.name), strings.Join(oldKey, ", "), strings.Join(newKey, ", "), strings.Join(same, " or "), strings.Join(types, ", "))
}

// resolve finds tables by their names, as the connection looks names up.
func resolve(ctx context.Context, q querier, tables []string) ([]uint32, error) {
	var oids []uint32
	var errs []error
	seen := make(map[uint32]string)
	for _, name := range tables {
		var oid *uint32
		if err := q.QueryRow(ctx, "select to_regclass($1)::oid", name).Scan(&oid); err != nil {
			return nil, fmt.Errorf("postgres: look up table %s: %w", name, err)
		}
		switch {
		case oid == nil:
			errs = append(errs, fmt.Errorf("postgres: there is no table %s: run the application's migrations before Open, and name a table with its schema if that is not in the search_path", name))
		case seen[*oid] != "":
			errs = append(errs, fmt.Errorf("postgres: tables %s and %s are the same one", seen[*oid], name))
		default:
			seen[*oid] = name
			oids = append(oids, *oid)
		}
	}
	return oids, errors.Join(errs...)
}

// load reads a table from the catalog. q looks names up in pg_catalog only, so
// that all others come qualified.
func load(ctx context.Context, q querier, oid uint32) (*table, error) {
	t := &table{oid: oid}
	var kind, persistence string
	var children bool
	err := q.QueryRow(ctx, `
		select pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind::text, c.relpersistence::text, c.relkind = 'p',
		       c.relkind = 'r' and exists (select from pg_catalog.pg_inherits i where i.inhparent = c.oid),
		       exists (select from pg_catalog.pg_trigger g where g.tgrelid = c.oid and g.tgname not like 'zz\_cohort\_%')
		from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = $1`, oid).
		Scan(&t.name, &kind, &persistence, &t.partitioned, &children, &t.triggers)
	if err != nil {
		return nil, fmt.Errorf("postgres: read the catalog: %w", err)
	}
	switch {
	case kind != "r" && kind != "p":
		return nil, fmt.Errorf("postgres: %s is not a table", t.name)
	case persistence != "p":
		return nil, fmt.Errorf("postgres: table %s is temporary or unlogged and does not survive a crash: ALTER TABLE %s SET LOGGED", t.name, t.name)
	case children:
		return nil, fmt.Errorf("postgres: table %s has tables that inherit from it: track those, or use partitions", t.name)
	}
	rows, err := q.Query(ctx, `
		select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', a.attidentity = 'a'
		from pg_catalog.pg_attribute a where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum`, oid)
	if err != nil {
		return nil, fmt.Errorf("postgres: read the columns of %s: %w", t.name, err)
	}
	t.columns, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (c column, err error) {
		return c, r.Scan(&c.name, &c.typ, &c.generated, &c.always)
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: read the columns of %s: %w", t.name, err)
	}
	if err := t.loadKey(ctx, q); err != nil {
		return nil, err
	}
	return t, t.loadSequences(ctx, q)
}

func (t *table) loadKey(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, `
		select a.attname, p.condeferrable
		from pg_catalog.pg_constraint p, unnest(p.conkey) with ordinality k(attnum, n)
		join pg_catalog.pg_attribute a on a.attnum = k.attnum
		where p.conrelid = $1 and p.contype = 'p' and a.attrelid = $1 order by k.n`, t.oid)
	if err != nil {
		return fmt.Errorf("postgres: read the primary key of %s: %w", t.name, err)
	}
	deferrable, generated := false, false
	var name string
	_, err = pgx.ForEachRow(rows, []any{&name, &deferrable}, func() error {
		for i := range t.columns {
			if t.columns[i].name == name {
				t.columns[i].inKey = true
				t.key = append(t.key, t.columns[i])
				generated = generated || t.columns[i].generated
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("postgres: read the primary key of %s: %w", t.name, err)
	case len(t.key) == 0:
		return fmt.Errorf("postgres: table %s has no primary key, so its rows cannot be named in the log: ALTER TABLE %s ADD PRIMARY KEY (…)", t.name, t.name)
	case generated:
		return fmt.Errorf("postgres: the primary key of table %s has a generated column, whose value cannot be written: use a plain one", t.name)
	case deferrable:
		return fmt.Errorf("postgres: the primary key of table %s is DEFERRABLE, which cannot be redone: make it one that is not", t.name)
	}
	return nil
}

func (t *table) loadSequences(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, `
		select pg_catalog.format('%I.%I', n.nspname, s.relname), a.attname
		from pg_catalog.pg_depend d
		join pg_catalog.pg_class s on s.oid = d.objid and s.relkind = 'S'
		join pg_catalog.pg_namespace n on n.oid = s.relnamespace
		join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
		where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
		  and d.refobjid = $1 and d.deptype in ('a', 'i') order by 1`, t.oid)
	if err != nil {
		return fmt.Errorf("postgres: read the sequences of %s: %w", t.name, err)
	}
	t.sequences, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (s sequence, err error) {
		return s, r.Scan(&s.name, &s.column)
	})
	if err != nil {
		return fmt.Errorf("postgres: read the sequences of %s: %w", t.name, err)
	}
	return nil
}
