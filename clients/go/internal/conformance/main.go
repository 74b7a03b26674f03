// Command conformance does the steps of clients/conformance and prints what it
// sees; it judges nothing.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	claudepool "github.com/claudepool/claudepool/clients/go"
	pb "github.com/claudepool/claudepool/clients/go/claudepoolv1"
)

type step struct {
	Name, Op, Address, Direct, Prompt, Service, Token, Workflow, Key, Value string

	CAFile        string `json:"ca_file"`
	TaskID        string `json:"task_id"`
	AfterSequence uint64 `json:"after_sequence"`
	Budget        int64  `json:"budget_microdollars"`
	TimeoutMs     int64  `json:"timeout_ms"`
	Prompts       []string
	Arguments     map[string]string
	Steps         []struct{ Name, Prompt string }
}

type saw map[string]any

func main() {
	var scenario struct{ Steps []step }
	text, err := os.ReadFile(os.Args[1])
	must(err)
	must(json.Unmarshal(text, &scenario))
	out := json.NewEncoder(os.Stdout)
	for _, s := range scenario.Steps {
		told := map[string]any{"step": s.Name}
		if seen, err := try(s); err != nil {
			told["error"] = err.Error()
		} else {
			told["saw"] = seen
		}
		must(out.Encode(told))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// try does one step; what goes wrong in it is its error.
func try(s step) (seen saw, err error) {
	defer func() {
		if wrong := recover(); wrong != nil {
			err = fmt.Errorf("%v", wrong)
		}
	}()
	do, known := ops[s.Op]
	if !known {
		return nil, errors.New("no such op: " + s.Op)
	}
	client := connect(s, s.Address)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	return do(ctx, client, s), nil
}

func connect(s step, address string) *claudepool.Client {
	var options []claudepool.Option
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		must(err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		options = append(options, claudepool.WithTLS(&tls.Config{RootCAs: roots}))
	}
	if s.Token != "" {
		options = append(options, claudepool.WithToken(s.Token))
	}
	client, err := claudepool.Connect(address, options...)
	must(err)
	return client
}

func collect(stream *claudepool.TaskStream) (events []*pb.Event) {
	for event, err := range stream.Events() {
		must(err)
		events = append(events, event)
	}
	return events
}

func receive[M any](stream grpc.ServerStreamingClient[M], err error) (messages []*M) {
	must(err)
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return messages
		}
		must(err)
		messages = append(messages, message)
	}
}

func get[M any](answer M, err error) M {
	must(err)
	return answer
}

func state(events []*pb.Event) string {
	end := events[len(events)-1].GetFinished()
	return strings.TrimPrefix(end.GetState().String(), "TASK_STATE_")
}

func failure(result *pb.TaskResult) string {
	if result.GetFailure() == nil {
		return ""
	}
	return strings.TrimPrefix(result.GetFailure().GetReason().String(), "FAILURE_REASON_")
}

func dense(events []*pb.Event) bool {
	for i, event := range events {
		if event.GetSequence() != uint64(i+1) {
			return false
		}
	}
	return len(events) > 0
}

func digest(events []*pb.Event) string {
	hash := sha256.New()
	for _, event := range events {
		hash.Write(get(proto.MarshalOptions{Deterministic: true}.Marshal(event)))
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}

var codeNames = map[codes.Code]string{
	codes.NotFound: "NOT_FOUND", codes.ResourceExhausted: "RESOURCE_EXHAUSTED", codes.InvalidArgument: "INVALID_ARGUMENT",
	codes.Unavailable: "UNAVAILABLE", codes.DeadlineExceeded: "DEADLINE_EXCEEDED",
	codes.Unauthenticated: "UNAUTHENTICATED", codes.PermissionDenied: "PERMISSION_DENIED",
}

func code(err *claudepool.Error) string { return codeNames[err.Code] }

func refused(err error) *claudepool.Error {
	var refusal *claudepool.Error
	if !errors.As(err, &refusal) {
		refusal = claudepool.AsError(err)
	}
	if refusal == nil {
		panic("it was not refused")
	}
	return refusal
}

func result(ctx context.Context, c *claudepool.Client, taskID string) *pb.TaskResult {
	wait := durationpb.New(50 * time.Second)
	return get(c.Pool.GetResult(ctx, &pb.GetResultRequest{TaskId: taskID, Wait: wait})).GetResult()
}

// tagged is the step's task with a tag of its own, to count by.
func tagged(s step) *pb.TaskSpec {
	task := claudepool.Prompt(s.Prompt)
	task.Tags = []string{fmt.Sprintf("go-%d", time.Now().UnixNano())}
	return task
}

// tasks tells how many tasks there are with its tag.
func tasks(ctx context.Context, c *claudepool.Client, task *pb.TaskSpec) int {
	filter := &pb.TaskFilter{AnyTags: task.GetTags()}
	return len(get(c.Pool.ListTasks(ctx, &pb.ListTasksRequest{Filter: filter})).GetTasks())
}

func chainSteps(s step) (steps []*pb.ChainStep) {
	for _, each := range s.Steps {
		steps = append(steps, &pb.ChainStep{Name: each.Name, Action: &pb.ChainStep_Prompt{Prompt: each.Prompt}})
	}
	return steps
}

var ops = map[string]func(context.Context, *claudepool.Client, step) saw{
	"health": func(ctx context.Context, c *claudepool.Client, s step) saw {
		answer := get(healthpb.NewHealthClient(c.Conn).Check(ctx, &healthpb.HealthCheckRequest{Service: s.Service}))
		return saw{"status": answer.GetStatus().String()}
	},
	"run": func(ctx context.Context, c *claudepool.Client, s step) saw {
		r := get(c.Run(ctx, claudepool.Prompt(s.Prompt)))
		return saw{"success": r.GetSuccess(), "output": r.GetOutput(), "failure": failure(r)}
	},
	"run_stream": func(ctx context.Context, c *claudepool.Client, s step) saw {
		task := tagged(s)
		stream := c.RunStream(ctx, task)
		events := collect(stream)
		text, deltas := "", 0
		for _, event := range events {
			if delta := event.GetTextDelta(); delta != nil {
				text += delta.GetText()
				deltas++
			}
		}
		return saw{"text": text, "deltas": deltas, "dense": dense(events), "task_id": stream.TaskID() != "", "state": state(events), "tasks": tasks(ctx, c, task)}
	},
	"submit_once": func(ctx context.Context, c *claudepool.Client, s step) saw {
		task := tagged(s)
		get(c.Submit(ctx, task))
		return saw{"tasks": tasks(ctx, c, task)}
	},
	"submit_watch": func(ctx context.Context, c *claudepool.Client, s step) saw {
		taskID := get(c.Submit(ctx, claudepool.Prompt(s.Prompt)))
		events := collect(c.Watch(ctx, taskID, 0))
		return saw{"dense": dense(events), "state": state(events)}
	},
	"late_attach": func(ctx context.Context, c *claudepool.Client, s step) saw {
		taskID := get(c.Submit(ctx, claudepool.Prompt(s.Prompt)))
		result(ctx, c, taskID)
		events := collect(c.Watch(ctx, taskID, 0))
		rest := collect(c.Watch(ctx, taskID, s.AfterSequence))
		return saw{"dense": dense(events), "rest_is_tail": len(rest) > 0 && digest(rest) == digest(events[s.AfterSequence:])}
	},
	"cancel": func(ctx context.Context, c *claudepool.Client, s step) saw {
		taskID := get(c.Submit(ctx, claudepool.Prompt(s.Prompt)))
		request := &pb.CancelRequest{Target: &pb.CancelRequest_TaskId{TaskId: taskID}}
		var events []*pb.Event
		for event, err := range c.Watch(ctx, taskID, 0).Events() {
			must(err)
			if event.GetTextDelta() != nil {
				get(c.Pool.Cancel(ctx, request))
			}
			events = append(events, event)
		}
		get(c.Pool.Cancel(ctx, request))
		return saw{"state": state(events), "repeat": true}
	},
	"fan_out": func(ctx context.Context, c *claudepool.Client, s step) saw {
		request := &pb.FanOutRequest{}
		for _, prompt := range s.Prompts {
			request.Tasks = append(request.Tasks, claudepool.Prompt(prompt))
		}
		outputs, failures := make([]string, len(s.Prompts)), make([]string, len(s.Prompts))
		for _, message := range receive(c.Pool.FanOut(ctx, request)) {
			if item := message.GetFinished(); item != nil {
				failures[item.GetIndex()] = failure(item.GetResult())
				if item.GetResult().GetSuccess() {
					outputs[item.GetIndex()] = item.GetResult().GetOutput()
				}
			}
		}
		return saw{"outputs": outputs, "failures": failures}
	},
	"chain": func(ctx context.Context, c *claudepool.Client, s step) saw {
		made := get(c.Pool.SubmitChain(ctx, &pb.SubmitChainRequest{Steps: chainSteps(s)}))
		var last *pb.ChainProgress
		rising := true
		for _, message := range receive(c.Pool.WatchChain(ctx, &pb.WatchChainRequest{TaskId: made.GetTaskId()})) {
			if progress := message.GetProgress(); progress != nil {
				rising = rising && progress.GetSequence() > last.GetSequence()
				last = progress
			}
		}
		var completed, outputs []string
		for _, done := range last.GetCompletedSteps() {
			completed = append(completed, done.GetName())
		}
		for _, done := range result(ctx, c, made.GetTaskId()).GetChain().GetSteps() {
			outputs = append(outputs, done.GetOutput())
		}
		status := strings.TrimPrefix(last.GetStatus().String(), "CHAIN_STATUS_")
		return saw{"status": status, "outputs": outputs, "rising": rising, "completed": completed}
	},
	"workflow": func(ctx context.Context, c *claudepool.Client, s step) saw {
		workflow := &pb.Workflow{Name: s.Workflow, Description: "Greets.", Steps: chainSteps(s)}
		for name := range s.Arguments {
			workflow.Arguments = append(workflow.Arguments, &pb.Argument{Name: name, Required: true})
		}
		get(c.Catalog.PutWorkflow(ctx, &pb.PutWorkflowRequest{Workflow: workflow}))
		made := get(c.Pool.SubmitWorkflow(ctx, &pb.SubmitWorkflowRequest{Name: s.Workflow, Arguments: s.Arguments}))
		return saw{"final_output": result(ctx, c, made.GetTaskId()).GetChain().GetFinalOutput()}
	},
	"context": func(ctx context.Context, c *claudepool.Client, s step) saw {
		get(c.Context.SetContext(ctx, &pb.SetContextRequest{Key: s.Key, Value: s.Value}))
		listed := slices.ContainsFunc(get(c.Context.ListContext(ctx, &pb.ListContextRequest{})).GetEntries(), func(e *pb.ContextEntry) bool {
			return e.GetKey() == s.Key && e.GetValue() == s.Value
		})
		seen := strings.Contains(get(c.Run(ctx, claudepool.Prompt(s.Prompt))).GetOutput(), s.Value)
		get(c.Context.DeleteContext(ctx, &pb.DeleteContextRequest{Key: s.Key}))
		_, err := c.Context.GetContext(ctx, &pb.GetContextRequest{Key: s.Key})
		return saw{"listed": listed, "seen": seen, "code": code(refused(err)), "reason": refused(err).Reason}
	},
	"refused": func(ctx context.Context, c *claudepool.Client, s step) saw {
		task := claudepool.Prompt(s.Prompt)
		task.Settings = &pb.RunSettings{BudgetMicrodollars: &s.Budget}
		_, err := c.Submit(ctx, task)
		fields := []string{}
		for field := range refused(err).Violations {
			fields = append(fields, field)
		}
		return saw{"code": code(refused(err)), "reason": refused(err).Reason, "fields": fields}
	},
	"paused": func(ctx context.Context, c *claudepool.Client, s step) saw {
		get(c.Operator.Pause(ctx, &pb.PauseRequest{}))
		_, err := c.Submit(ctx, claudepool.Prompt(s.Prompt))
		get(c.Operator.Resume(ctx, &pb.ResumeRequest{}))
		refusal := refused(err)
		return saw{"code": code(refusal), "reason": refusal.Reason, "retry_after_ms": refusal.RetryAfter.Milliseconds()}
	},
	"deadline": func(ctx context.Context, c *claudepool.Client, s step) saw {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(s.TimeoutMs)*time.Millisecond)
		defer cancel()
		_, err := c.Run(ctx, claudepool.Prompt(s.Prompt))
		return saw{"code": code(refused(err))}
	},
	"same_bytes": func(ctx context.Context, c *claudepool.Client, s step) saw {
		direct := connect(s, s.Direct)
		defer direct.Close()
		taskID := get(direct.Submit(ctx, claudepool.Prompt(s.Prompt)))
		disturbed := collect(c.Watch(ctx, taskID, 0))
		undisturbed := collect(direct.Watch(ctx, taskID, 0))
		shared := collect(direct.Watch(ctx, s.TaskID, 0))
		return saw{"disturbed": digest(disturbed), "undisturbed": digest(undisturbed), "events": len(disturbed), "shared": digest(shared)}
	},
}
