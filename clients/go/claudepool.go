// Package claudepool is a client of claudepool, a gRPC service that keeps warm
// Claude Code processes and puts them to work. The messages and stubs are in
// [claudepoolv1].
package claudepool

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/claudepool/claudepool/clients/go/claudepoolv1"
)

//go:embed service_config.json
var serviceConfig string

// Client has the helpers, and the stubs of every service. A request that creates
// work and has no request_id gets one, so that the channel may send it again.
// What a stub returns as an error is read by [AsError].
type Client struct {
	Pool     pb.PoolServiceClient
	Operator pb.OperatorServiceClient
	Catalog  pb.CatalogServiceClient
	Context  pb.ContextServiceClient
	Conn     *grpc.ClientConn
}

type options struct {
	token string
	tls   *tls.Config
	dial  []grpc.DialOption
}

// Option says how to connect.
type Option func(*options)

// WithToken sends a bearer token with every call; over TLS or loopback only.
func WithToken(token string) Option { return func(o *options) { o.token = token } }

// WithTLS says how to do TLS. Without it an https address trusts the system's roots.
func WithTLS(config *tls.Config) Option { return func(o *options) { o.tls = config } }

// WithDialOptions adds options of gRPC's own.
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, dial...) }
}

// Connect makes a client of the server at http://host:port, https://host:port,
// host:port or unix:/path. It connects when it is first used.
func Connect(address string, opts ...Option) (*Client, error) {
	var o options
	for _, option := range opts {
		option(&o)
	}
	scheme, rest, found := strings.Cut(address, "://")
	switch {
	case strings.HasPrefix(address, "unix:"):
		scheme, rest = "unix", address
	case !found && o.tls != nil:
		scheme, rest = "https", address
	case !found:
		scheme, rest = "http", address
	}
	rest = strings.TrimSuffix(rest, "/")
	transport := insecure.NewCredentials()
	switch scheme {
	case "https":
		if o.tls == nil {
			o.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		transport = credentials.NewTLS(o.tls)
	case "http":
		if o.token != "" && !loopback(rest) {
			return nil, errors.New("a token is sent over TLS or loopback only: say https://")
		}
	case "unix":
	default:
		return nil, fmt.Errorf("%s: say http://host:port, https://host:port or unix:/path", address)
	}
	unary, stream := everyCall(o.token)
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithChainUnaryInterceptor(unary),
		grpc.WithChainStreamInterceptor(stream),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A connection that has died silently is found out.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
	}, o.dial...)
	conn, err := grpc.NewClient(rest, dial...)
	if err != nil {
		return nil, err
	}
	return &Client{
		Pool: pb.NewPoolServiceClient(conn), Operator: pb.NewOperatorServiceClient(conn),
		Catalog: pb.NewCatalogServiceClient(conn), Context: pb.NewContextServiceClient(conn), Conn: conn,
	}, nil
}

func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || (ip != nil && ip.IsLoopback()))
}

// Close ends the connection.
func (c *Client) Close() error { return c.Conn.Close() }

// Prompt is the task that this text is.
func Prompt(text string) *pb.TaskSpec {
	return &pb.TaskSpec{Input: &pb.TaskSpec_Prompt{Prompt: text}}
}

// Run runs a task and gives its result. A task that failed is an answer too: see
// its Failure. When ctx ends, the task is cancelled.
func (c *Client) Run(ctx context.Context, task *pb.TaskSpec) (*pb.TaskResult, error) {
	for event, err := range c.RunStream(ctx, task).Events() {
		if err != nil {
			return nil, err
		}
		if end := event.GetFinished(); end != nil {
			return end.GetResult(), nil
		}
	}
	return nil, endedEarly()
}

// RunStream runs a task and gives its events. A broken connection is taken up
// again; the task waits for that a few seconds.
func (c *Client) RunStream(ctx context.Context, task *pb.TaskSpec) *TaskStream {
	requestID := newRequestID()
	return &TaskStream{attach: func(ctx context.Context, after uint64) (receiver, error) {
		stream, err := c.Pool.RunStream(ctx, &pb.RunStreamRequest{Task: task, RequestId: requestID, AfterSequence: after})
		return func() (item, error) { return stream.Recv() }, err
	}, ctx: ctx}
}

// Watch gives a task's events after a sequence, each once, until the task ends.
func (c *Client) Watch(ctx context.Context, taskID string, afterSequence uint64) *TaskStream {
	return &TaskStream{attach: func(ctx context.Context, after uint64) (receiver, error) {
		stream, err := c.Pool.WatchTask(ctx, &pb.WatchTaskRequest{TaskId: taskID, AfterSequence: after})
		return func() (item, error) { return stream.Recv() }, err
	}, ctx: ctx, taskID: taskID, after: afterSequence}
}

// Submit makes a task durable and gives its id. It runs once, however often the
// call had to be sent.
func (c *Client) Submit(ctx context.Context, task *pb.TaskSpec) (string, error) {
	answer, err := c.Pool.Submit(ctx, &pb.SubmitRequest{Task: task})
	if err != nil {
		return "", AsError(err)
	}
	return answer.GetTaskId(), nil
}
