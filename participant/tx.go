package participant

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// abortTimeout bounds giving an attempt up: it would time out by itself.
const abortTimeout = 2 * time.Second

// Tx is one attempt of a transaction. It belongs to one goroutine.
type Tx struct {
	group   *Group
	ctx     context.Context
	options txOptions
	id      string
	// attempt is nil until something needs a snapshot: a transaction of blind
	// writes is a single request.
	attempt  *cohortv1.Attempt
	position uint64
	steps    uint32
	buffer   *buffer
	// err is why the attempt cannot go on, once it cannot.
	err error
}

func (g *Group) newTx(ctx context.Context, o txOptions) *Tx {
	tx := &Tx{group: g, ctx: ctx, options: o, id: o.id}
	if tx.id == "" {
		tx.id = newUUIDv7(time.Now())
	}
	tx.buffer = newBuffer(ctx, tx)
	return tx
}

// ID is the transaction's id.
func (tx *Tx) ID() string { return tx.id }

// begin opens the attempt, if it is not open.
func (tx *Tx) begin() error {
	if tx.attempt != nil || tx.err != nil {
		return tx.err
	}
	resp, err := call(tx.ctx, tx.group.client, "begin", tx.group.name, &cohortv1.BeginRequest{
		Group: tx.group.name, Id: tx.id, RequestDigest: tx.options.digest, TimeoutMs: milliseconds(tx.options.timeout),
	}, beginMethod)
	if err != nil {
		return tx.fail(err)
	}
	switch r := resp.Result.(type) {
	case *cohortv1.BeginResponse_Opened:
		tx.attempt, tx.position = r.Opened.Attempt, r.Opened.Position
		return nil
	case *cohortv1.BeginResponse_Committed:
		return tx.fail(&CommittedError{Receipt: receipt(r.Committed)})
	case *cohortv1.BeginResponse_Abort:
		return tx.fail(abortFromWire(r.Abort))
	}
	return tx.fail(errNoAnswer("begin", tx.group.name))
}

// fail ends the attempt: the first reason stays.
func (tx *Tx) fail(err error) error {
	if tx.err == nil {
		tx.err = err
	}
	return tx.err
}

// end makes later use an error.
func (tx *Tx) end() { _ = tx.fail(ErrTxDone) }

// Store gives a participant's store. Writes are kept here and sent with the next
// Call or with Commit; reads see them.
func (tx *Tx) Store(participant string) Store {
	return Store{buffer: tx.buffer, participant: participant}
}

// Call runs a method of a participant at its active instance, inside this
// transaction: what the handler reads is read by it, what it stages commits with
// it. in and out are as in Func: bytes, protobuf messages or anything JSON can
// hold; a nil out drops the reply.
//
// Errors: *CallError when the handler failed, after which the attempt is still
// open; *AbortError when it is not, also for a lock that another attempt holds;
// *RequestError.
func (tx *Tx) Call(participant, method string, in, out any) error {
	if err := errors.Join(checkName("participant", participant), checkMethod(method)); err != nil {
		return tx.buffer.doom(err)
	}
	payload, contentType, err := encodePayload(in)
	if err != nil {
		return tx.buffer.doom(err)
	}
	if err := tx.begin(); err != nil {
		return err
	}
	tx.steps++
	resp, err := call(tx.ctx, tx.group.client, "call", tx.group.name, &cohortv1.CallRequest{
		Group: tx.group.name, Attempt: tx.attempt, Step: tx.steps, Participant: participant, Method: method,
		Payload: payload, ContentType: contentType, Ops: tx.buffer.takeOps(),
	}, callMethod)
	if err != nil {
		// Whether the step ran, and whether its ops arrived, is not known.
		return tx.fail(err)
	}
	switch r := resp.Result.(type) {
	case *cohortv1.CallResponse_Reply:
		if err := decode(r.Reply.Payload, r.Reply.ContentType, out); err != nil {
			return &CallError{Participant: participant, Method: method, Code: CallBadPayload, Message: err.Error()}
		}
		return nil
	case *cohortv1.CallResponse_Failure:
		if r.Failure.GetCode() == cohortv1.StepFailure_CODE_CONFLICT {
			// The step lost a lock to another attempt, and with it this one is over.
			return tx.fail(&AbortError{ID: tx.id, Reason: ReasonConflict, Participant: participant, Detail: r.Failure.GetMessage()})
		}
		code, ok := callCodeOfWire[r.Failure.GetCode()]
		if !ok {
			code = CallUnknown
		}
		return &CallError{Participant: participant, Method: method, Code: code, Message: r.Failure.GetMessage()}
	case *cohortv1.CallResponse_Abort:
		return tx.fail(abortFromWire(r.Abort))
	}
	return tx.fail(errNoAnswer("call", tx.group.name))
}

// Commit asks for the decision. A lost answer is asked for again until ctx ends;
// then the error is an *IndeterminateError. Other errors: *AbortError,
// *RequestError when the request was wrong in itself.
func (tx *Tx) Commit(ctx context.Context) (Receipt, error) {
	if tx.err != nil {
		if !errors.Is(tx.err, ErrTxDone) {
			tx.giveUp("the attempt failed before")
		}
		return Receipt{}, tx.err
	}
	defer tx.end()
	if tx.buffer.doomed != nil {
		tx.giveUp("something the workflow asked for could not be done")
		return Receipt{}, tx.buffer.doomed
	}
	attempt := tx.attempt
	if attempt == nil {
		attempt = &cohortv1.Attempt{Id: tx.id}
	}
	return tx.commit(ctx, &cohortv1.CommitRequest{
		Group: tx.group.name, Attempt: attempt, RequestDigest: tx.options.digest,
		Reads: tx.buffer.readList(), Scans: tx.buffer.scans, Ops: tx.buffer.takeOps(),
		Steps: tx.steps, TimeoutMs: milliseconds(tx.options.timeout),
	})
}

// commit sends the request until its answer is known. Sending it again is safe:
// the id commits at most once, and an attempt is decided once.
func (tx *Tx) commit(ctx context.Context, req *cohortv1.CommitRequest) (Receipt, error) {
	c, caller := tx.group.client, ctx
	sent := new(sendings)
	ctx = context.WithValue(ctx, sendingsKey{}, sent)
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.patience)
		defer cancel()
	}
	unknown := &IndeterminateError{ID: tx.id, Begun: req.Attempt.Begun}
	pause := newBackoff(10*time.Millisecond, 500*time.Millisecond)
	for {
		resp, err := call(ctx, c, "commit", tx.group.name, req, commitMethod)
		if err != nil {
			if refused(err) {
				return Receipt{}, err
			}
			unknown.cause = err
		} else {
			switch r := resp.Result.(type) {
			case *cohortv1.CommitResponse_Receipt:
				return receipt(r.Receipt), nil
			case *cohortv1.CommitResponse_Abort:
				abort := abortFromWire(r.Abort)
				if sent.count.Load() < 2 {
					return Receipt{}, abort
				}
				// An abort that a coordinator answers without the log is true of the
				// request it got. One sent earlier may still be on its way to the next
				// coordinator, and each sending of a blind write is an attempt of its
				// own: only the log can say that none of them commits.
				if out, err := tx.group.Outcome(ctx, tx.id, Begun(req.Attempt.Begun), Settle()); err != nil {
					unknown.cause = err
				} else if out.State == Committed {
					return out.Receipt, nil
				} else if out.State == Aborted {
					return Receipt{}, abort
				}
			case *cohortv1.CommitResponse_Indeterminate:
				unknown.Detail = r.Indeterminate.GetDetail()
			}
		}
		if pause.wait(ctx) != nil {
			if sent.count.Load() == 0 {
				return Receipt{}, &RequestError{Op: "commit", Group: tx.group.name, kind: ErrUnavailable, Message: "no node could be reached, so nothing was sent", cause: caller.Err()}
			}
			return Receipt{}, unknown
		}
	}
}

// refused tells whether a request certainly did nothing because the server found
// it wrong in itself.
func refused(err error) bool {
	if errors.Is(err, ErrClosed) {
		return true
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted:
		return true
	}
	return false
}

// Abort gives the attempt up: nothing of it happens. Without it an attempt that
// is not committed ends by its timeout.
func (tx *Tx) Abort(ctx context.Context) error {
	if tx.attempt == nil || errors.Is(tx.err, ErrTxDone) {
		tx.end()
		return nil
	}
	defer tx.end()
	_, err := call(ctx, tx.group.client, "abort", tx.group.name, &cohortv1.AbortRequest{Group: tx.group.name, Attempt: tx.attempt}, abortMethod)
	return err
}

// giveUp aborts on a best-effort basis, also when ctx has ended.
func (tx *Tx) giveUp(reason string) {
	if tx.attempt == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tx.ctx), abortTimeout)
	defer cancel()
	_, _ = call(ctx, tx.group.client, "abort", tx.group.name, &cohortv1.AbortRequest{Group: tx.group.name, Attempt: tx.attempt, Reason: reason}, abortMethod)
}

// The rest is the buffer's remote.

func (tx *Tx) usable() error { return tx.err }

func (tx *Tx) get(ctx context.Context, participant string, keys [][]byte) (*cohortv1.GetResponse, error) {
	if err := tx.begin(); err != nil {
		return nil, err
	}
	resp, err := getAt(ctx, tx.group, &cohortv1.GetRequest{
		Group: tx.group.name, Participant: participant, Keys: keys, At: &cohortv1.GetRequest_Attempt{Attempt: tx.attempt},
	})
	return resp, tx.ended(err)
}

func (tx *Tx) scan(ctx context.Context, participant string, prefix, after []byte, limit uint32) (*cohortv1.ScanResponse, error) {
	if err := tx.begin(); err != nil {
		return nil, err
	}
	resp, err := scanAt(ctx, tx.group, &cohortv1.ScanRequest{
		Group: tx.group.name, Participant: participant, Prefix: prefix, After: after, Limit: limit,
		At: &cohortv1.ScanRequest_Attempt{Attempt: tx.attempt},
	})
	return resp, tx.ended(err)
}

// ended notes an abort: the attempt is over whatever its function makes of it.
func (tx *Tx) ended(err error) error {
	var abort *AbortError
	if errors.As(err, &abort) {
		return tx.fail(err)
	}
	return err
}

// getAt and scanAt turn an abort in the answer into an error.
func getAt(ctx context.Context, g *Group, req *cohortv1.GetRequest) (*cohortv1.GetResponse, error) {
	resp, err := call(ctx, g.client, "get", g.name, req, getMethod)
	if err != nil {
		return nil, err
	}
	return resp, checkGet(g, req, resp)
}

func checkGet(g *Group, req *cohortv1.GetRequest, resp *cohortv1.GetResponse) error {
	if resp.Abort != nil {
		return abortFromWire(resp.Abort)
	}
	if len(resp.Items) != len(req.Keys) {
		return errNoAnswer("get", g.name)
	}
	return nil
}

func scanAt(ctx context.Context, g *Group, req *cohortv1.ScanRequest) (*cohortv1.ScanResponse, error) {
	resp, err := call(ctx, g.client, "scan", g.name, req, scanMethod)
	if err == nil && resp.Abort != nil {
		err = abortFromWire(resp.Abort)
	}
	return resp, err
}

func errNoAnswer(op, group string) error {
	return &RequestError{Op: op, Group: group, kind: ErrInvalid, Message: "the node's answer is one that this version of the package cannot read"}
}

// milliseconds rounds up, so that a short timeout does not become none.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// encodePayload is encode, with nothing as JSON's null and a Payload as it is: a
// handler reads most payloads as JSON.
func encodePayload(v any) ([]byte, string, error) {
	switch s := v.(type) {
	case nil:
		return []byte("null"), ContentJSON, nil
	case Payload:
		return s.Data, s.ContentType, nil
	}
	data, contentType, err := encode(v)
	if err != nil {
		return nil, "", fmt.Errorf("payload: %w", err)
	}
	return data, contentType, nil
}
