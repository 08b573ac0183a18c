package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// restoresDir holds what restores under way make and need: states that replicas
// will start from, and files that are being imported. Each is named by its
// restore's token.
const restoresDir = "restores"

// hydrator makes the files that replicas of restored incarnations start from.
type hydrator struct {
	dir     string // the node's data directory
	manager *manager
	service *coordinator.Service
	logger  *zap.Logger

	// mu keeps two requests with one token apart.
	mu      sync.Mutex
	running map[string]bool
}

var _ coordinator.Hydrator = (*hydrator)(nil)

func newHydrator(dir string, m *manager, logger *zap.Logger) *hydrator {
	return &hydrator{dir: filepath.Join(dir, restoresDir), manager: m, logger: logger.Named("hydrator"), running: make(map[string]bool)}
}

// statePath is where the state of a restore is made.
func (h *hydrator) statePath(token string) string { return filepath.Join(h.dir, token+".state") }

func (h *hydrator) importPath(token string) string { return filepath.Join(h.dir, token+".tar") }

// scratch is for a checkpoint that comes from elsewhere.
func (h *hydrator) scratch(token string) string { return filepath.Join(h.dir, token+".source") }

// checkToken keeps tokens, which become names of files, to what newToken makes.
func checkToken(token string) error {
	if token == "" || len(token) > 64 || strings.Trim(token, "0123456789abcdef") != "" {
		return fmt.Errorf("%.80q is no token of a restore", token)
	}
	return nil
}

// begin takes a token for one request.
func (h *hydrator) begin(token string) (done func(), err error) {
	if err := checkToken(token); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running[token] {
		return nil, fmt.Errorf("restore %s is being worked on here already", token)
	}
	h.running[token] = true
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.running, token)
	}, nil
}

// Hydrate makes the state that the request asks for, under its token.
func (h *hydrator) Hydrate(ctx context.Context, req *pb.HydrateRequest, progress func(txlog.HydrateProgress)) (txlog.Hydrated, error) {
	done, err := h.begin(req.GetToken())
	if err != nil {
		return txlog.Hydrated{}, err
	}
	defer done()
	definition, err := groups.Decode(req.GetDefinitionJson())
	if err != nil {
		return txlog.Hydrated{}, err
	}
	source, entries, closeSource, err := h.source(ctx, req)
	if err != nil {
		return txlog.Hydrated{}, err
	}
	defer closeSource()
	participants, limits := definition.MachineConfig()
	m := source.Manifest()
	dir := h.statePath(req.GetToken())
	if err := os.RemoveAll(dir); err != nil {
		return txlog.Hydrated{}, err
	}
	made, err := txlog.Hydrate(ctx, txlog.HydrateSpec{
		Dir: dir,
		Image: machine.ImageSpec{
			Incarnation: req.GetIncarnation(), IndexBase: groups.IndexBase(req.GetIncarnation()),
			Definition: req.GetDefinitionJson(), Participants: participants, Limits: limits,
			SourceGroup: req.GetSourceGroup(), SourceIncarnation: m.Incarnation, SourceCheckpoint: m.Number, Token: req.GetToken(), TimeUnixNano: m.TimeUnixNano,
		},
		Checkpoint: source,
		Entries:    entries,
		Position:   req.GetPosition(),
		Limits:     limits,
		Progress:   progress,
		Logger:     h.logger,
	})
	if err != nil {
		return made, err
	}
	if req.GetDrill() {
		return made, os.RemoveAll(dir)
	}
	return made, nil
}

// source opens the checkpoint and the log after it.
func (h *hydrator) source(ctx context.Context, req *pb.HydrateRequest) (*checkpoint.Reader, func(uint64) (txlog.EntryReader, error), func(), error) {
	if req.GetImportToken() != "" {
		r, err := h.openImported(ctx, req)
		return r, nil, func() { _ = os.RemoveAll(h.scratch(req.GetToken())) }, err
	}
	hosted := h.manager.group(req.GetSourceGroup())
	if hosted == nil || hosted.keeper == nil {
		return nil, nil, nil, fmt.Errorf("this node has no replica of group %s that runs", req.GetSourceGroup())
	}
	scratch := h.scratch(req.GetToken())
	if err := os.RemoveAll(scratch); err != nil {
		return nil, nil, nil, err
	}
	r, release, err := hosted.keeper.Source(req.GetCheckpoint(), scratch)
	if errors.Is(err, txlog.ErrNoCopy) {
		r, err = h.fetch(ctx, req, scratch)
		release = func() { _ = os.RemoveAll(scratch) }
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return r, hosted.keeper.EntriesFrom, release, nil
}

// fetch takes another node's copy, where this one lacks it.
func (h *hydrator) fetch(ctx context.Context, req *pb.HydrateRequest, dir string) (*checkpoint.Reader, error) {
	in, err := h.service.FetchCopy(ctx, req.GetSourceGroup(), req.GetCheckpoint())
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if _, err := checkpoint.ReadExport(in, dir, nil); err != nil {
		return nil, err
	}
	return checkpoint.Open(dir)
}

func (h *hydrator) openImported(ctx context.Context, req *pb.HydrateRequest) (*checkpoint.Reader, error) {
	if err := checkToken(req.GetImportToken()); err != nil {
		return nil, err
	}
	dir := h.scratch(req.GetToken())
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	in, err := h.importFile(ctx, req)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if _, err := checkpoint.ReadExport(in, dir, nil); err != nil {
		return nil, err
	}
	return checkpoint.Open(dir)
}

func (h *hydrator) importFile(ctx context.Context, req *pb.HydrateRequest) (io.ReadCloser, error) {
	if req.GetImportNode() != h.manager.node {
		return h.service.FetchImport(ctx, req.GetImportNode(), req.GetImportToken())
	}
	in, _, err := h.OpenImport(req.GetImportToken())
	return in, err
}

// Discard removes what a token has left, but a state that the directory knows
// stays: a replica will take it.
func (h *hydrator) Discard(token string) {
	if checkToken(token) != nil {
		return
	}
	for _, path := range []string{h.importPath(token), h.scratch(token)} {
		if err := os.RemoveAll(path); err != nil {
			h.logger.Warn("removing what a restore has left", zap.Error(err))
		}
	}
}

// SaveImport keeps an export file, once all of it is verified.
func (h *hydrator) SaveImport(ctx context.Context, token string, in io.Reader) (coordinator.ImportedFile, error) {
	done, err := h.begin(token)
	if err != nil {
		return coordinator.ImportedFile{}, err
	}
	defer done()
	path := h.importPath(token)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return coordinator.ImportedFile{}, err
	}
	_, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err != nil {
		return coordinator.ImportedFile{}, err
	}
	in2, err := os.Open(path)
	if err != nil {
		return coordinator.ImportedFile{}, err
	}
	defer in2.Close()
	dir := h.scratch(token)
	m, err := checkpoint.ReadExport(in2, dir, nil)
	if err != nil {
		return coordinator.ImportedFile{}, err
	}
	defer os.RemoveAll(dir)
	if err := ctx.Err(); err != nil {
		return coordinator.ImportedFile{}, err
	}
	r, err := checkpoint.Open(dir)
	if err != nil {
		return coordinator.ImportedFile{}, err
	}
	return imported(r, m)
}

// imported reads what a restore needs to know of a file.
func imported(r *checkpoint.Reader, m checkpoint.Manifest) (coordinator.ImportedFile, error) {
	out := coordinator.ImportedFile{Group: m.Group, Checkpoint: m.Number, Incarnation: m.Incarnation, Position: m.Position}
	for _, s := range m.Sections {
		if name, ok := strings.CutPrefix(s.Name, "participant/"); ok {
			out.Participants = append(out.Participants, name)
		}
	}
	meta, err := r.Meta()
	if err != nil {
		return out, err
	}
	config, err := machine.DecodeConfig(meta["config"])
	if err != nil {
		return out, err
	}
	out.Definition = config.Definition
	missing, err := txlog.MissingParticipants(&m, meta)
	if err != nil {
		return out, err
	}
	if len(missing) > 0 {
		return out, fmt.Errorf("it is a checkpoint of %s alone, and a group made of it would lack the data of %s; export one of all participants, which `cohort checkpoint create` takes without --participant",
			strings.Join(out.Participants, ", "), strings.Join(missing, ", "))
	}
	if err := statesComplete(&m, meta); err != nil {
		return out, err
	}
	if out.Definition == nil {
		return out, errors.New("it holds no definition of a group")
	}
	return out, nil
}

// statesComplete refuses a checkpoint with a participant's own state that is older
// than the rest: the log that leads on from it is not in the file.
func statesComplete(m *checkpoint.Manifest, meta map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(meta)) {
		own, found, err := machine.DecodeOwnState(name, meta[name])
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		at, captured := own.Base, false
		for _, f := range m.Sections {
			if participant, ok := f.StateOf(); ok && participant == own.Participant {
				at, captured = f.State.Position, true
			}
		}
		switch {
		case at >= m.Position:
		case captured:
			return fmt.Errorf("the state of participant %s in it is as of position %d, and the log from there to the checkpoint's, %d, is not in the file; export a checkpoint that was taken while an instance of %s was ready",
				own.Participant, at, m.Position, own.Participant)
		default:
			return fmt.Errorf("participant %s keeps state of its own, and none is in the file; export a checkpoint that was taken while an instance of it was ready", own.Participant)
		}
	}
	return nil
}

// OpenImport gives a file back.
func (h *hydrator) OpenImport(token string) (io.ReadCloser, uint64, error) {
	if err := checkToken(token); err != nil {
		return nil, 0, err
	}
	f, err := os.Open(h.importPath(token))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, uint64(info.Size()), nil
}

// adopt moves the state of a restore to where its replica looks for it. A crash
// before the rename leaves it to the next start, one after it nothing to do.
func (h *hydrator) adopt(token, replicaDir string) error {
	if _, err := os.Lstat(replicaDir); err == nil {
		return nil
	}
	if err := os.Rename(h.statePath(token), replicaDir); err != nil {
		return err
	}
	return errors.Join(syncDirectory(filepath.Dir(replicaDir)), syncDirectory(h.dir))
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweepAge is how old the rest of a restore is before it is taken for one.
const sweepAge = time.Hour

// sweep removes, when the node starts, what no group needs.
func (h *hydrator) sweep(needed func(token string) bool) {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return // there was never a restore
	}
	for _, e := range entries {
		token, kind, _ := strings.Cut(e.Name(), ".")
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < sweepAge || kind == "state" && needed(token) {
			continue
		}
		h.mu.Lock()
		busy := h.running[token]
		h.mu.Unlock()
		if busy {
			continue
		}
		if err := os.RemoveAll(filepath.Join(h.dir, e.Name())); err != nil {
			h.logger.Warn("removing what a restore has left", zap.Error(err))
		}
	}
}
