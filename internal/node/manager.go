package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
)

const (
	// maxStarting bounds replicas that start at once: each replays its log.
	maxStarting = 4
	// startRetryAfter is waited before a replica is started again that could not
	// be: the directory had no quorum, say.
	startRetryAfter = 500 * time.Millisecond
)

// manager runs what the directory places on this node: for each group with a
// replica here, the replica and a coordinator, which serves while the replica
// leads. A replica that may not start shows in the status; the node goes on.
type manager struct {
	node      string
	host      *txlog.Host
	directory *groups.DirectoryHost
	data      *groups.DataDir
	metrics   *coordinator.Metrics
	logger    *zap.Logger
	keepers   *keepers
	hydrator  *hydrator

	cancel context.CancelFunc
	done   chan struct{}
	// news holds one token when the directory has changed.
	news chan struct{}

	mu     sync.Mutex
	hosted map[string]*hostedGroup
	// settled is set once every group of a directory state has been started or
	// refused here.
	settled bool
}

// hostedGroup is a group with a replica on this node. It is immutable once it is
// in the map.
type hostedGroup struct {
	record *groups.GroupRecord
	// member is the replica.
	member groups.Member
	// replica and coordinator are nil when err says why the replica does not run.
	replica     *txlog.Replica
	coordinator *coordinator.Coordinator
	keeper      *txlog.Keeper
	err         error
	// lost is set when err is for good.
	lost bool
}

// start begins to follow the directory.
func (m *manager) start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel, m.done = cancel, make(chan struct{})
	m.news = make(chan struct{}, 1)
	m.hosted = map[string]*hostedGroup{}
	unwatch := m.directory.Watch(func(*groups.DirectoryState) {
		select {
		case m.news <- struct{}{}:
		default: // the token that is there will do
		}
	})
	go func() {
		defer close(m.done)
		defer unwatch()
		var definitions sync.WaitGroup
		defer definitions.Wait()
		definitions.Go(func() { m.followDefinitions(ctx) })
		m.run(ctx)
	}()
}

func (m *manager) run(ctx context.Context) {
	retry := time.NewTicker(startRetryAfter)
	defer retry.Stop()
	again := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.news:
		case <-retry.C:
			if !again {
				continue
			}
		}
		again = !m.reconcile(ctx)
	}
}

// reconcile starts what should run here and does not. It reports whether nothing
// is left to try again.
func (m *manager) reconcile(ctx context.Context) bool {
	state := m.directory.State()
	var starting errgroup.Group
	starting.SetLimit(maxStarting)
	for _, record := range state.Groups() {
		member, here := record.Member(m.node)
		if !here {
			continue
		}
		hosted := m.group(record.Name)
		over := hosted != nil && (hosted.record.ShardID != record.ShardID || hosted.member.ReplicaID != member.ReplicaID)
		if hosted != nil && (hosted.replica != nil || hosted.lost) && !over {
			continue
		}
		starting.Go(func() error {
			if over {
				m.endIncarnation(hosted)
			}
			hosted := m.startGroup(ctx, state, record, member)
			if hosted.err != nil && ctx.Err() == nil {
				m.logger.Warn("replica does not run", zap.String("group", record.Name), zap.Bool("for_good", hosted.lost), zap.Error(hosted.err))
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.hosted[record.Name] = hosted
			if hosted.err != nil && !hosted.lost {
				return hosted.err
			}
			return nil
		})
	}
	complete := starting.Wait() == nil
	complete = m.clearRemoved(ctx) && complete
	m.mu.Lock()
	defer m.mu.Unlock()
	if complete && state.Revision > 0 && !m.settled {
		m.settled = true
		m.hydrator.sweep(func(token string) bool { return needsRestore(state, token) })
	}
	return complete
}

// startGroup starts a replica and its coordinator, by the rules that keep a node
// that has lost its disk from voting twice; see package groups.
func (m *manager) startGroup(ctx context.Context, state *groups.DirectoryState, record *groups.GroupRecord, member groups.Member) *hostedGroup {
	hosted := &hostedGroup{record: record, member: member}
	hosted.replica, hosted.err = m.startReplica(ctx, state, record, member)
	if hosted.err != nil {
		hosted.lost = errors.Is(hosted.err, groups.ErrAmnesia)
		return hosted
	}
	if hosted.keeper, hosted.err = m.keepers.start(record, hosted.replica, m.host.ReplicaDir(record.ShardID, member.ReplicaID)); hosted.err != nil {
		hosted.err = errors.Join(hosted.err, m.host.StopReplica(record.ShardID))
		hosted.replica = nil
		return hosted
	}
	hosted.coordinator = coordinator.New(coordinator.Params{
		Group:    record.Name,
		NodeName: m.node,
		Replica:  coordinator.Of(hosted.replica),
		InitialDefinition: func(ctx context.Context) (groups.Definition, uint64, error) {
			return m.initialDefinition(ctx, record.Name)
		},
		Members:        func() []string { return m.current(record).Voters() },
		FeatureLevel:   func() uint64 { return m.directory.State().FeatureLevel(m.current(record)) },
		Origin:         func(ctx context.Context) ([32]byte, [][]byte, error) { return m.origin(ctx, record) },
		PlannedRestore: func() string { return m.plannedRestore(record) },
		CancelRestore:  func(ctx context.Context, token string) (bool, error) { return m.cancelRestore(ctx, record.Name, token) },
		Logger:         m.logger,
		Metrics:        m.metrics,
	})
	m.clearPast(record)
	m.logger.Info("replica started", zap.String("group", record.Name), zap.Uint64("shard", record.ShardID), zap.Uint64("replica", member.ReplicaID))
	return hosted
}

func (m *manager) startReplica(ctx context.Context, state *groups.DirectoryState, record *groups.GroupRecord, member groups.Member) (*txlog.Replica, error) {
	definition, err := record.Definition()
	if err != nil {
		return nil, fmt.Errorf("definition of group %s: %w", record.Name, err)
	}
	_, limits := definition.MachineConfig()
	config := txlog.ReplicaConfig{
		Group: record.Name, ShardID: record.ShardID, ReplicaID: member.ReplicaID, Limits: limits,
		IndexBase: groups.IndexBase(record.Incarnation), EpochBase: groups.EpochBase(record.Incarnation),
		State: m.keepers.state(m.current, record), Learner: member.Joined,
	}
	hasLog := m.host.NodeHost().HasNodeInfo(record.ShardID, member.ReplicaID)
	mode, err := m.data.StartMode(record.ShardID, member.ReplicaID, member.Started, hasLog)
	if err != nil {
		return nil, err
	}
	if mode == groups.StartBootstrap {
		if err := m.data.Plan(record.Name, record.ShardID, member.ReplicaID); err != nil {
			return nil, err
		}
		if !member.Started {
			if _, err := m.directory.MarkStarted(ctx, record.ShardID, member.ReplicaID); err != nil {
				return nil, err
			}
		}
		if config.Join = member.Joined || record.Changed; !config.Join {
			config.Members = state.RaftMembers(record)
		}
		if !member.Joined {
			if err := m.adopt(record, member); err != nil {
				return nil, err
			}
		}
	}
	replica, err := m.host.StartReplica(config)
	if err != nil {
		return nil, err
	}
	if err := m.data.Bootstrapped(record.ShardID, member.ReplicaID); err != nil {
		return nil, errors.Join(err, m.host.StopReplica(record.ShardID))
	}
	return replica, nil
}

// initialDefinition is what a group's log begins with.
func (m *manager) initialDefinition(ctx context.Context, group string) (groups.Definition, uint64, error) {
	state, err := m.directory.Read(ctx)
	if err != nil {
		return groups.Definition{}, 0, err
	}
	record, ok := state.Group(group)
	if !ok {
		return groups.Definition{}, 0, fmt.Errorf("the directory has no group %s any more", group)
	}
	definition, err := record.Definition()
	return definition, record.Incarnation, err
}

func (m *manager) group(name string) *hostedGroup {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hosted[name]
}

func (m *manager) all() []*hostedGroup {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*hostedGroup, 0, len(m.hosted))
	for _, hosted := range m.hosted {
		list = append(list, hosted)
	}
	return list
}

// ready tells whether everything placed here runs, or cannot for good.
func (m *manager) ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.settled {
		return fmt.Errorf("%w: its replicas are starting", ErrNotReady)
	}
	for name, hosted := range m.hosted {
		if hosted.err != nil && !hosted.lost {
			return fmt.Errorf("%w: group %s: %w", ErrNotReady, name, hosted.err)
		}
	}
	return nil
}

// stopStarting ends the following of the directory.
func (m *manager) stopStarting() {
	m.cancel()
	<-m.done
}

// close ends the coordinators. Replicas are the host's to stop.
func (m *manager) close() {
	m.stopStarting()
	var closing sync.WaitGroup
	for _, hosted := range m.all() {
		closing.Go(hosted.close)
	}
	closing.Wait()
}
