package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// usageError is a wrong command line: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// errSaid ends a command with exit code 1 when its output has said why.
var errSaid = errors.New("the output says why")

// explain turns an error into one line for a person, or nothing when it was said.
func explain(err error) string {
	if errors.Is(err, errSaid) {
		return ""
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return usage.text
	}
	if s, ok := grpcStatus(err); ok {
		return explainStatus(s)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer in time: %v; give more with --timeout, or ask 'cohort status'", err)
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return err.Error()
}

func grpcStatus(err error) (*status.Status, bool) {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return nil, false
	}
	return carrier.GRPCStatus(), true
}

// nobodyAnswered tells that the request did not reach a node.
func nobodyAnswered(s *status.Status) bool {
	return s.Code() == codes.Unavailable && (strings.Contains(s.Message(), "connection error") || strings.Contains(s.Message(), "dial tcp"))
}

func explainStatus(s *status.Status) string {
	message := s.Message()
	switch s.Code() {
	case codes.Unavailable:
		if nobodyAnswered(s) {
			return fmt.Sprintf("no node answered: %s; start one with 'cohort dev' or 'cohort serve', or give its address with --addr or COHORT_ADDR", message)
		}
		return fmt.Sprintf("%s; try again in a moment, 'cohort status' tells more", message)
	case codes.DeadlineExceeded:
		// What came before the time was up says more than that it was.
		if _, before, found := strings.Cut(message, "before that: "); found {
			return fmt.Sprintf("no answer in time (%s); give more with --timeout, or ask 'cohort status'", before)
		}
		return "no answer in time; give more with --timeout, or ask 'cohort status'"
	case codes.Unimplemented:
		return fmt.Sprintf("the node does not know this request (%s); is it an older version? 'cohort get nodes' shows the versions", message)
	case codes.Canceled:
		return "interrupted"
	default:
		return message
	}
}
