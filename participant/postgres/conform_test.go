package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/participanttest"
)

// rowContent changes rows of accounts as the log has them.
type rowContent struct{}

func (rowContent) Change(r *rand.Rand) []byte {
	t := &table{name: "public.accounts", columns: []column{{name: "id", typ: "text", inKey: true}, {name: "balance", typ: "bigint"}}}
	t.key = t.columns[:1]
	id, balance := fmt.Sprintf("a%d", r.IntN(8)), fmt.Sprint(r.IntN(1000))
	row := rowChange{table: t, key: []*string{&id}, values: []*string{&id, &balance}}
	if r.IntN(4) == 0 {
		row.values = nil
	}
	changes, err := encodeChanges(newLot(), []rowChange{row})
	if err != nil {
		panic(err)
	}
	return changes[0]
}

func (rowContent) Dump(s participant.OwnState) (string, error) {
	rows, err := s.(*bank).own.Query(context.Background(), "select id || '=' || balance from public.accounts order by id")
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return "", err
		}
		out = append(out, line)
	}
	return strings.Join(out, " "), rows.Err()
}

// Without it the database would be another kind of own state than the SDK expects.
func TestConform(t *testing.T) {
	participanttest.Conform(t, func(t testing.TB) participant.OwnState { return newBank(t, accounts, "accounts") }, rowContent{},
		participanttest.Seeds(2),
		participanttest.Reopens(func(t testing.TB, s participant.OwnState) participant.OwnState {
			b := s.(*bank)
			// PostgreSQL hears of a killed process by its connections.
			queryIn(t, b.dsn, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
			return openBank(t, b.dsn, b.group, b.config)
		}),
		participanttest.Model(func(changes [][]byte) string {
			rows := make(map[string]string)
			for _, data := range changes {
				c, err := decodeChange(data)
				if err != nil {
					panic(err)
				}
				for _, t := range c.Tables {
					for _, row := range t.Put {
						rows[*row[0]] = *row[1]
					}
					for _, key := range t.Delete {
						delete(rows, *key[0])
					}
				}
			}
			var out []string
			for id, balance := range rows {
				out = append(out, id+"="+balance)
			}
			slices.Sort(out)
			return strings.Join(out, " ")
		}))
}
