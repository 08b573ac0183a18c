package txlog

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/logger"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// dragonboat takes one logger factory for the process, only once, and asks it
// once for each of its packages. So the factory is installed once, and what it
// makes looks up where to log each time.
var (
	installRaftLogger sync.Once
	raftLog           atomic.Pointer[zap.Logger]
)

// SetDragonboatLogger sends dragonboat's log, that of all hosts in the process, to
// l; the last call counts. Until it is called, dragonboat's log goes nowhere. Its
// messages are not constant, so they go into a field.
func SetDragonboatLogger(l *zap.Logger) {
	raftLog.Store(l.Named("raft"))
	quietDragonboat()
}

// quietDragonboat replaces dragonboat's own logger, which writes to standard
// error.
func quietDragonboat() {
	installRaftLogger.Do(func() {
		// It panics when somebody else in the process has set a factory: theirs stays.
		defer func() { _ = recover() }()
		logger.SetLoggerFactory(func(pkg string) logger.ILogger { return &raftLogger{pkg: pkg} })
	})
}

// raftLogger is that of one of dragonboat's packages. dragonboat warns about what
// is ordinary in an election, so its levels are lowered by one.
type raftLogger struct{ pkg string }

// SetLevel is the zap logger's business.
func (*raftLogger) SetLevel(logger.LogLevel) {}

func (r *raftLogger) write(level zapcore.Level, format string, args []any) {
	l := raftLog.Load()
	if l == nil {
		return
	}
	if e := l.Check(level, "dragonboat"); e != nil {
		e.Write(zap.String("package", r.pkg), zap.String("detail", fmt.Sprintf(format, args...)))
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
