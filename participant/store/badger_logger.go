package store

import (
	"strings"

	"go.uber.org/zap"
)

// badgerLogger hands badger's messages to zap: what badger calls information is
// of interest only to somebody who debugs it.
type badgerLogger struct{ log *zap.SugaredLogger }

func (l badgerLogger) Errorf(format string, args ...any) {
	l.log.Errorf(strings.TrimSpace(format), args...)
}

func (l badgerLogger) Warningf(format string, args ...any) {
	l.log.Warnf(strings.TrimSpace(format), args...)
}

func (l badgerLogger) Infof(format string, args ...any) {
	l.log.Debugf(strings.TrimSpace(format), args...)
}

// Debugf drops: badger calls it several times a write.
func (l badgerLogger) Debugf(string, ...any) {}
