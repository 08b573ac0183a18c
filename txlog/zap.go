package txlog

import (
	"fmt"
	"sync"

	"github.com/lni/dragonboat/v4/logger"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

var dragonboatLogger sync.Once

// SetDragonboatLogger sends dragonboat's log to l. dragonboat's logger is one for
// the process and can be set once, before the first Host: the first call counts.
// Its messages are not constant, so they go into a field.
func SetDragonboatLogger(l *zap.Logger) {
	dragonboatLogger.Do(func() {
		logger.SetLoggerFactory(func(pkg string) logger.ILogger {
			// dragonboat warns about what is ordinary in an election.
			return &raftLogger{log: l.Named("raft").With(zap.String("package", pkg))}
		})
	})
}

type raftLogger struct{ log *zap.Logger }

// SetLevel is the zap logger's business.
func (*raftLogger) SetLevel(logger.LogLevel) {}

func (r *raftLogger) write(level zapcore.Level, format string, args []any) {
	if e := r.log.Check(level, "dragonboat"); e != nil {
		e.Write(zap.String("detail", fmt.Sprintf(format, args...)))
	}
}

func (r *raftLogger) Debugf(format string, args ...any) { r.write(zap.DebugLevel, format, args) }
func (r *raftLogger) Infof(format string, args ...any)  { r.write(zap.DebugLevel, format, args) }
func (r *raftLogger) Warningf(format string, args ...any) {
	r.write(zap.InfoLevel, format, args)
}
func (r *raftLogger) Errorf(format string, args ...any) { r.write(zap.WarnLevel, format, args) }

// Panicf logs and panics: dragonboat relies on it not returning.
func (r *raftLogger) Panicf(format string, args ...any) {
	r.write(zap.ErrorLevel, format, args)
	panic(fmt.Sprintf(format, args...))
}
