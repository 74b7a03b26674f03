package claudepool

import (
	"context"
	"crypto/rand"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// everyCall adds the token, and a request_id where one belongs.
func everyCall(token string) (grpc.UnaryClientInterceptor, grpc.StreamClientInterceptor) {
	with := func(ctx context.Context) context.Context {
		if token == "" {
			return ctx
		}
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	unary := func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(with(ctx), method, withRequestID(request), answer, conn, opts...)
	}
	stream := func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		made, err := open(with(ctx), desc, conn, method, opts...)
		return requestStream{made}, err
	}
	return unary, stream
}

type requestStream struct{ grpc.ClientStream }

func (s requestStream) SendMsg(message any) error {
	return s.ClientStream.SendMsg(withRequestID(message))
}

// withRequestID is the request with a request_id, where it can have one and has none.
func withRequestID(request any) any {
	message, ok := request.(proto.Message)
	if !ok {
		return request
	}
	field := message.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if field == nil || message.ProtoReflect().Has(field) {
		return request
	}
	made := proto.Clone(message)
	made.ProtoReflect().Set(field, protoreflect.ValueOfString(newRequestID()))
	return made
}

// newRequestID is a random UUID.
func newRequestID() string {
	var b [16]byte
	// Never fails: it would end the program.
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
