package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// codeCardinality is raised when one statement puts a row twice.
const codeCardinality = "21000"

// rowSet is rows of one table that have the same columns, each at most once: as
// the last change left it.
type rowSet struct {
	table   *table
	columns []column
	// source are the columns' places in the rows of the log.
	source []int
	put    map[string][]*string
	gone   map[string][]*string
}

// redo makes the changes of entries. It writes what came of all of them, each row
// once; when the rows' other unique columns do not let it, one entry after the
// other, each row removed first.
func (db *DB) redo(ctx context.Context, tx pgx.Tx, works []work) error {
	if len(works) == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return db.redoTogether(ctx, tx, works, false) })
	if !isUnique(err) {
		return err
	}
	for _, w := range works {
		if err := db.redoTogether(ctx, tx, []work{w}, true); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) redoTogether(ctx context.Context, tx pgx.Tx, works []work, removeFirst bool) error {
	sets, err := db.rowSets(works)
	if err != nil {
		return err
	}
	for _, s := range sets {
		gone := s.gone
		if removeFirst || s.table.alwaysOutsideKey() {
			gone = s.allKeys()
		}
		if err := s.remove(ctx, tx, gone); err != nil {
			return err
		}
	}
	for _, s := range sets {
		if err := s.write(ctx, tx); err != nil {
			return err
		}
		if err := s.advanceSequences(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// rowSets gathers the rows of entries, in the order of their tables' first change.
func (db *DB) rowSets(works []work) ([]*rowSet, error) {
	var order []*rowSet
	sets := make(map[string]*rowSet)
	for _, w := range works {
		for _, c := range w.changes {
			for _, tc := range c.Tables {
				t, err := db.table(tc.Table)
				if err != nil {
					return nil, err
				}
				name := tc.Table + "\x00" + strings.Join(tc.Columns, "\x00")
				s := sets[name]
				if s == nil {
					if s, err = newRowSet(t, tc); err != nil {
						return nil, err
					}
					sets[name] = s
					order = append(order, s)
				}
				s.add(tc, order)
			}
		}
	}
	return order, nil
}

// newRowSet matches the columns of the log with those that the table has now. What
// a migration has dropped is left out; what it has added keeps its default.
func newRowSet(t *table, tc tableChange) (*rowSet, error) {
	s := &rowSet{table: t, put: make(map[string][]*string), gone: make(map[string][]*string)}
	for i, name := range tc.Columns {
		if c, ok := t.column(name); ok && !c.generated {
			s.columns = append(s.columns, c)
			s.source = append(s.source, i)
		}
	}
	if !slices.Equal(tc.Key, t.keyNames()) {
		return nil, fmt.Errorf("postgres: the log has rows of table %s by key (%s), its primary key is (%s) now: change a primary key only when no log from before it is needed", t.name, strings.Join(tc.Key, ", "), strings.Join(t.keyNames(), ", "))
	}
	for _, k := range t.key {
		if !slices.Contains(names(s.columns), k.name) {
			return nil, fmt.Errorf("postgres: the log has rows of table %s without key column %s", t.name, k.name)
		}
	}
	return s, nil
}

// keyIn finds a row's key among its values.
func (s *rowSet) keyIn(row []*string) []*string {
	key := make([]*string, len(s.table.key))
	for i, k := range s.table.key {
		key[i] = row[slices.Index(names(s.columns), k.name)]
	}
	return key
}

func keyString(key []*string) string {
	var b strings.Builder
	for _, v := range key {
		if v == nil {
			b.WriteString("-")
			continue
		}
		b.WriteString(strconv.Itoa(len(*v)))
		b.WriteByte(':')
		b.WriteString(*v)
	}
	return b.String()
}

// add takes in rows, which replace those from before. Other sets of the same table,
// with other columns, lose what this one has.
func (s *rowSet) add(tc tableChange, all []*rowSet) {
	forget := func(key string) {
		for _, o := range all {
			if o.table == s.table {
				delete(o.put, key)
				delete(o.gone, key)
			}
		}
	}
	for _, row := range tc.Put {
		values := make([]*string, len(s.source))
		for i, from := range s.source {
			values[i] = row[from]
		}
		key := keyString(s.keyIn(values))
		forget(key)
		s.put[key] = values
	}
	for _, key := range tc.Delete {
		k := keyString(key)
		forget(k)
		s.gone[k] = key
	}
}

func (s *rowSet) allKeys() map[string][]*string {
	keys := make(map[string][]*string, len(s.put)+len(s.gone))
	for k, key := range s.gone {
		keys[k] = key
	}
	for k, row := range s.put {
		keys[k] = s.keyIn(row)
	}
	return keys
}

// columnwise turns rows, in a fixed order, into an array a column.
func columnwise(rows map[string][]*string, width int) []any {
	order := make([]string, 0, len(rows))
	for k := range rows {
		order = append(order, k)
	}
	slices.Sort(order)
	out := make([]any, width)
	for i := range out {
		values := make([]*string, len(order))
		for j, k := range order {
			values[j] = rows[k][i]
		}
		out[i] = values
	}
	return out
}

// unnest is a table of text columns c1, c2, … given as parameters.
func unnest(width int) string {
	params, cols := make([]string, width), make([]string, width)
	for i := range width {
		params[i], cols[i] = fmt.Sprintf("$%d::text[]", i+1), fmt.Sprintf("c%d", i+1)
	}
	return "unnest(" + strings.Join(params, ", ") + ") as r(" + strings.Join(cols, ", ") + ")"
}

func (s *rowSet) remove(ctx context.Context, tx pgx.Tx, keys map[string][]*string) error {
	if len(keys) == 0 {
		return nil
	}
	on := make([]string, len(s.table.key))
	for i, k := range s.table.key {
		on[i] = fmt.Sprintf("t.%s = r.c%d::%s", quote(k.name), i+1, k.typ)
	}
	_, err := tx.Exec(ctx, fmt.Sprintf("delete from %s t using %s where %s", s.table.name, unnest(len(on)), strings.Join(on, " and ")), columnwise(keys, len(on))...)
	if err != nil {
		return fmt.Errorf("postgres: redo deletions from %s: %w", s.table.name, err)
	}
	return nil
}

func (s *rowSet) write(ctx context.Context, tx pgx.Tx) error {
	if len(s.put) == 0 {
		return nil
	}
	cols, values, set := make([]string, len(s.columns)), make([]string, len(s.columns)), []string{}
	for i, c := range s.columns {
		cols[i], values[i] = quote(c.name), fmt.Sprintf("r.c%d::%s", i+1, c.typ)
		if !c.inKey && !c.always {
			set = append(set, quote(c.name)+" = excluded."+quote(c.name))
		}
	}
	action := "nothing"
	if len(set) > 0 {
		action = "update set " + strings.Join(set, ", ")
	}
	key := make([]string, len(s.table.key))
	for i, k := range s.table.key {
		key[i] = quote(k.name)
	}
	_, err := tx.Exec(ctx, fmt.Sprintf("insert into %s (%s) overriding system value select %s from %s on conflict (%s) do %s",
		s.table.name, strings.Join(cols, ", "), strings.Join(values, ", "), unnest(len(cols)), strings.Join(key, ", "), action), columnwise(s.put, len(cols))...)
	if err != nil {
		return fmt.Errorf("postgres: redo rows of %s: %w", s.table.name, err)
	}
	return nil
}

// advanceSequences moves the sequences that feed the table's columns past the
// values written, so that new rows get others. It is never undone, which only
// leaves a gap.
func (s *rowSet) advanceSequences(ctx context.Context, tx pgx.Tx) error {
	for _, seq := range s.table.sequences {
		i := slices.Index(names(s.columns), seq.column)
		if i < 0 || len(s.put) == 0 {
			continue
		}
		var values []*string
		for _, row := range s.put {
			values = append(values, row[i])
		}
		_, err := tx.Exec(ctx, fmt.Sprintf(`select setval(%s, q.m) from (select max(x::numeric)::bigint m from unnest($1::text[]) x) q, %s s
			where (q.m > s.last_value or q.m = s.last_value and not s.is_called)
			  and (select p.seqincrement from pg_sequence p where p.seqrelid = %s::regclass) > 0`, literal(seq.name), seq.name, literal(seq.name)), values)
		if err != nil {
			return fmt.Errorf("postgres: advance sequence %s: %w", seq.name, err)
		}
	}
	return nil
}
