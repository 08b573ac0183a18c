package groups

import (
	"testing"

	"github.com/lni/dragonboat/v4/logger"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	for _, name := range []string{"raft", "rsm", "transport", "grpc", "dragonboat", "logdb", "raftpb", "config", "settings", "order", "utils", "tan", "registry", "server"} {
		logger.GetLogger(name).SetLevel(logger.ERROR)
	}
	goleak.VerifyTestMain(m)
}
