package claudepool

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/claudepool/claudepool/clients/go/claudepoolv1"
)

const (
	// Longest time for which a broken stream is taken up again without an answer.
	reconnectFor = 30 * time.Second
	// The same before the server has answered at all.
	connectFor   = 5 * time.Second
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// item is what messages of RunStream and WatchTask have in common.
type item interface{ GetEvent() *pb.Event }

type receiver func() (item, error)

// TaskStream is a task's events over however many connections.
type TaskStream struct {
	attach func(ctx context.Context, after uint64) (receiver, error)
	ctx    context.Context
	taskID string
	after  uint64
}

// TaskID is the task's id; empty until the server has told it.
func (s *TaskStream) TaskID() string { return s.taskID }

// Events gives each event once. It ends after finished, or with an error, which
// is an [*Error]. Leaving the loop early ends the call.
func (s *TaskStream) Events() iter.Seq2[*pb.Event, error] {
	return func(yield func(*pb.Event, error) bool) {
		attached, patience, pause, brokenAt := false, connectFor, firstPause, time.Time{}
		for {
			broken := s.once(func(message item) bool {
				attached, patience, pause, brokenAt = true, reconnectFor, firstPause, time.Time{}
				if run, ok := message.(*pb.RunStreamResponse); ok && run.GetAccepted() != nil {
					s.taskID = run.GetAccepted().GetTaskId()
				}
				event := message.GetEvent()
				if event == nil || event.GetSequence() <= s.after {
					return true
				}
				s.after = event.GetSequence()
				return yield(event, nil) && event.GetFinished() == nil
			})
			if broken == nil {
				return
			}
			if brokenAt.IsZero() {
				brokenAt = time.Now()
			}
			// A server that restarts says so, and is worth waiting for.
			if broken.Reason == "DRAINING" || broken.Reason == "STARTING" {
				attached, patience = true, reconnectFor
			}
			if !mendable(broken, attached) || time.Since(brokenAt) > patience {
				yield(nil, broken)
				return
			}
			select {
			case <-time.After(max(pause, broken.RetryAfter)):
				pause = min(2*pause, longestPause)
			case <-s.ctx.Done():
				yield(nil, AsError(status.FromContextError(s.ctx.Err()).Err()))
				return
			}
		}
	}
}

// once follows one connection until take has enough (nil) or it breaks.
func (s *TaskStream) once(take func(item) bool) *Error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	receive, err := s.attach(ctx, s.after)
	if err != nil {
		return AsError(err)
	}
	for {
		message, err := receive()
		if errors.Is(err, io.EOF) {
			return endedEarly()
		}
		if err != nil {
			return AsError(err)
		}
		if !take(message) {
			return nil
		}
	}
}

// mendable tells whether attaching again may help.
func mendable(err *Error, attached bool) bool {
	switch err.Code {
	case codes.Unavailable:
		return attached || err.Reason == ""
	case codes.Unknown, codes.Internal:
		return err.Reason == ""
	default:
		return false
	}
}

func endedEarly() *Error {
	return AsError(status.Error(codes.Unavailable, "the stream ended before the task did"))
}
