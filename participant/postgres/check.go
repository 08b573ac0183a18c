package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// minVersion is the oldest PostgreSQL that is supported: 14.
	minVersion = 140000
	// ownConns bounds the connections beside the application's pool: following the
	// log and its commits, resolving, and two captures' two.
	ownConns = 2 + commitConns + 4
	// minConns is what the application's pool must allow, so that one step can wait
	// for another.
	minConns = 2
)

// ownPool is a pool of this package's own to the same database. Following the log
// must not wait for connections that steps hold, since they may be waiting for it.
// Its sessions look nothing up but in pg_catalog, and write values in a form that
// depends on no setting.
func ownPool(ctx context.Context, app *pgxpool.Pool, participant string) (*pgxpool.Pool, error) {
	conf := app.Config()
	if conf.MaxConns < minConns {
		return nil, fmt.Errorf("postgres: the pool allows %d connections: want at least %d, and as many as transactions may be open at once (pool_max_conns)", conf.MaxConns, minConns)
	}
	conf.MaxConns, conf.MinConns, conf.MinIdleConns = ownConns, 0, 0
	// BeforeConnect stays: it may be what knows the password.
	conf.AfterConnect, conf.AfterRelease, conf.BeforeClose, conf.PrepareConn = nil, nil, nil, nil
	conf.ConnConfig.Tracer = nil
	conf.ConnConfig.RuntimeParams = maps.Clone(conf.ConnConfig.RuntimeParams)
	if conf.ConnConfig.RuntimeParams == nil {
		conf.ConnConfig.RuntimeParams = make(map[string]string)
	}
	maps.Copy(conf.ConnConfig.RuntimeParams, map[string]string{
		"application_name": "cohort " + participant, "search_path": "pg_catalog",
		"datestyle": "ISO, YMD", "intervalstyle": "postgres", "extra_float_digits": "3", "timezone": "UTC",
		"bytea_output": "hex", "lc_monetary": "C", "row_security": "off", "synchronize_seqscans": "off",
		"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "default_transaction_isolation": "read committed",
		"default_transaction_read_only": "off",
	})
	own, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := own.Ping(ctx); err != nil {
		own.Close()
		return nil, fmt.Errorf("postgres: connect: %w", err)
	}
	return own, nil
}

// server is what start finds out about PostgreSQL.
type server struct {
	// prepared is max_prepared_transactions.
	prepared int
	// replica tells that triggers and foreign keys can be kept from firing.
	replica bool
}

// checkServer refuses what cannot work, all reasons at once.
func checkServer(ctx context.Context, q querier) (server, error) {
	var s server
	var version int
	var recovery bool
	var encoding, conforming string
	err := q.QueryRow(ctx, `select current_setting('server_version_num')::int, current_setting('max_prepared_transactions')::int,
		pg_is_in_recovery(), current_setting('server_encoding'), current_setting('standard_conforming_strings')`).
		Scan(&version, &s.prepared, &recovery, &encoding, &conforming)
	if err != nil {
		return s, fmt.Errorf("postgres: read the server's settings: %w", err)
	}
	var errs []error
	if version < minVersion {
		errs = append(errs, fmt.Errorf("postgres: the server has version %d.%d, at least %d is needed", version/10000, version%10000, minVersion/10000))
	}
	if s.prepared == 0 {
		errs = append(errs, errors.New("postgres: max_prepared_transactions is 0, so PREPARE TRANSACTION is off: set it in postgresql.conf to at least the number of transactions that may be decided at once, 100 say, and restart the server"))
	}
	if recovery {
		errs = append(errs, errors.New("postgres: the server is a read-only standby: connect to the primary, with target_session_attrs=read-write"))
	}
	if encoding != "UTF8" {
		errs = append(errs, fmt.Errorf("postgres: the database's encoding is %s: only UTF8 is supported", encoding))
	}
	if conforming != "on" {
		errs = append(errs, errors.New("postgres: standard_conforming_strings is off: set it on"))
	}
	return s, errors.Join(errs...)
}

// checkRights refuses a role that could not do its work later.
func checkRights(ctx context.Context, own *pgxpool.Pool, s *server, tables []*table) error {
	var errs []error
	for _, t := range tables {
		for _, right := range []string{"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"} {
			var has bool
			if err := own.QueryRow(ctx, "select has_table_privilege($1::oid, $2)", t.oid, right).Scan(&has); err != nil {
				return fmt.Errorf("postgres: check the rights on %s: %w", t.name, err)
			}
			if !has {
				errs = append(errs, fmt.Errorf("postgres: the database's role may not %s on table %s: GRANT %s ON %s TO it", right, t.name, right, t.name))
			}
		}
		for _, seq := range t.sequences {
			var has bool
			if err := own.QueryRow(ctx, "select has_sequence_privilege($1, 'SELECT') and has_sequence_privilege($1, 'UPDATE')", seq.name).Scan(&has); err != nil {
				return fmt.Errorf("postgres: check the rights on %s: %w", seq.name, err)
			}
			if !has {
				errs = append(errs, fmt.Errorf("postgres: the database's role may not set sequence %s: GRANT SELECT, UPDATE ON SEQUENCE %s TO it", seq.name, seq.name))
			}
		}
	}
	for _, name := range []string{"applied", "transactions", "ids", "tables", "changes"} {
		var has bool
		err := own.QueryRow(ctx, "select has_schema_privilege('cohort', 'USAGE') and has_table_privilege('cohort."+name+"', 'INSERT') and has_table_privilege('cohort."+name+"', 'DELETE')").Scan(&has)
		if err != nil {
			return fmt.Errorf("postgres: check the rights on schema cohort: %w", err)
		}
		if !has {
			errs = append(errs, errors.New("postgres: the database's role may not write to schema cohort: run postgres.Setup as its owner, with the application's role as Config.Role"))
			break
		}
	}
	var err error
	if s.replica, err = mayReplicate(ctx, own); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, t := range tables {
		if t.triggers && !s.replica {
			errs = append(errs, fmt.Errorf("postgres: table %s has triggers or foreign keys, which must not fire when changes are redone, and the database's role may not set session_replication_role: GRANT SET ON PARAMETER session_replication_role TO it (PostgreSQL 15), or use a superuser", t.name))
		}
	}
	return errors.Join(errs...)
}

// mayReplicate tries to switch triggers off.
func mayReplicate(ctx context.Context, own *pgxpool.Pool) (bool, error) {
	may := false
	err := pgx.BeginFunc(ctx, own, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "set local session_replication_role = replica")
		if code(err) == codeInsufficientPrivilege {
			return nil
		}
		may = err == nil
		return err
	})
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		err = nil
	}
	return may, err
}

// milliseconds is a timeout as PostgreSQL's settings take it.
func milliseconds(d interface{ Milliseconds() int64 }) string {
	return strconv.FormatInt(max(1, d.Milliseconds()), 10)
}
