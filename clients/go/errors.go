package claudepool

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is a refused or broken call.
type Error struct {
	Code    codes.Code
	Message string
	// Reason is the word of docs/errors.md; empty if the server did not answer.
	Reason string
	// RetryAfter is set if the server says when to try again.
	RetryAfter time.Duration
	// Violations say what is wrong, by field path.
	Violations map[string]string
	cause      error
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s", e.Reason, e.Message)
}

// Unwrap gives gRPC's own error.
func (e *Error) Unwrap() error { return e.cause }

// AsError reads what a stub returned as an error; nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if already, ok := err.(*Error); ok {
		return already
	}
	said := status.Convert(err)
	made := &Error{Code: said.Code(), Message: said.Message(), Violations: map[string]string{}, cause: err}
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == "claudepool" {
				made.Reason = detail.GetReason()
			}
		case *errdetails.RetryInfo:
			made.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				made.Violations[violation.GetField()] = violation.GetDescription()
			}
		}
	}
	return made
}
