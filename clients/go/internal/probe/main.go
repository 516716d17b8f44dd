// SPDX-License-Identifier: Apache-2.0

// Command probe runs conformance cases through this client: one JSON command a line on standard input, one JSON answer a line on
// standard output, as tests/conformance/PROBE.md defines them. Messages travel as the base64 of their bytes.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/virtblock/virtblock/clients/go"
	pb "github.com/virtblock/virtblock/clients/go/virtblockv1"
)

type command struct {
	Op            string `json:"op"`
	Client        string `json:"client"`
	Stream        string `json:"stream"`
	Target        string `json:"target"`
	ReadOnly      bool   `json:"read_only"`
	Insecure      bool   `json:"insecure"`
	ConnectionURI string `json:"connection_uri"`
	TLS           *struct {
		CA         string `json:"ca"`
		Cert       string `json:"cert"`
		Key        string `json:"key"`
		ServerName string `json:"server_name"`
	} `json:"tls"`
	Method        string `json:"method"`
	Request       []byte `json:"request"`
	TimeoutMs     int    `json:"timeout_ms"`
	CancelAfterMs int    `json:"cancel_after_ms"`
}

type answer map[string]any

// stream is anything that gives messages until it fails or ends.
type stream struct {
	next   func() (proto.Message, error)
	token  func() string
	cancel func()
}

type probe struct {
	clients map[string]*virtblock.Client
	streams map[string]*stream
}

func main() {
	p := &probe{clients: map[string]*virtblock.Client{}, streams: map[string]*stream{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	output := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			panic(err)
		}
		if err := output.Encode(p.run(&c)); err != nil {
			panic(err)
		}
	}
}

func (p *probe) run(c *command) answer {
	result, err := p.do(c)
	if err == nil {
		return result
	}
	var failed *virtblock.Error
	if !errors.As(err, &failed) {
		return answer{"crash": fmt.Sprintf("%T: %v", err, err)}
	}
	return answer{"error": answer{
		"number": failed.Code, "domain": failed.Domain, "level": failed.Level, "message": failed.Message, "str1": failed.Str1,
		"str2": failed.Str2, "str3": failed.Str3, "int1": failed.Int1, "int2": failed.Int2, "reason": failed.Reason,
	}}
}

func (p *probe) do(c *command) (answer, error) {
	switch c.Op {
	case "dial":
		return p.dial(c)
	case "call":
		return p.call(c)
	case "open":
		return p.open(c)
	case "watch":
		return p.watch(c)
	case "next":
		return p.next(c)
	case "close_stream":
		p.streams[c.Stream].cancel()
		return answer{}, nil
	case "close":
		return answer{}, p.clients[c.Client].Close()
	}
	return nil, fmt.Errorf("unknown op %q", c.Op)
}

func (p *probe) dial(c *command) (answer, error) {
	var options []virtblock.Option
	if c.ReadOnly {
		options = append(options, virtblock.WithReadOnly())
	}
	if c.Insecure {
		options = append(options, virtblock.WithInsecure())
	}
	if c.ConnectionURI != "" {
		options = append(options, virtblock.WithConnectionURI(c.ConnectionURI))
	}
	if c.TLS != nil {
		options = append(options, virtblock.WithTLS(c.TLS.CA, c.TLS.Cert, c.TLS.Key, c.TLS.ServerName))
	}
	client, err := virtblock.Dial(c.Target, options...)
	if err != nil {
		return nil, err
	}
	p.clients[c.Client] = client
	return answer{"target": client.Target()}, nil
}

// messages makes the request of a method, and an empty answer.
func messages(c *command) (path string, request, response proto.Message, err error) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("virtblock.v1." + c.Method))
	if err != nil {
		return "", nil, nil, err
	}
	method := found.(protoreflect.MethodDescriptor)
	made := make([]proto.Message, 2)
	for i, descriptor := range []protoreflect.MessageDescriptor{method.Input(), method.Output()} {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
		if err != nil {
			return "", nil, nil, err
		}
		made[i] = kind.New().Interface()
	}
	path = fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	return path, made[0], made[1], proto.Unmarshal(c.Request, made[0])
}

func (p *probe) call(c *command) (answer, error) {
	path, request, response, err := messages(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if c.TimeoutMs > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(c.TimeoutMs)*time.Millisecond)
		defer cancel()
	}
	if c.CancelAfterMs > 0 {
		time.AfterFunc(time.Duration(c.CancelAfterMs)*time.Millisecond, cancel)
	}
	if err := p.clients[c.Client].Conn().Invoke(ctx, path, request, response); err != nil {
		return nil, err
	}
	return encoded(response)
}

func (p *probe) open(c *command) (answer, error) {
	path, request, response, err := messages(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	opened, err := p.clients[c.Client].Conn().NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err == nil {
		err = errors.Join(opened.SendMsg(request), opened.CloseSend())
	}
	if err != nil {
		cancel()
		return nil, err
	}
	p.streams[c.Stream] = &stream{cancel: cancel, next: func() (proto.Message, error) {
		proto.Reset(response)
		return response, opened.RecvMsg(response)
	}}
	return answer{}, nil
}

func (p *probe) watch(c *command) (answer, error) {
	request := &pb.WatchBlockJobsRequest{}
	if err := proto.Unmarshal(c.Request, request); err != nil {
		return nil, err
	}
	watch, err := p.clients[c.Client].WatchBlockJobs(context.Background(), request)
	if err != nil {
		return nil, err
	}
	p.streams[c.Stream] = &stream{cancel: watch.Close, token: watch.ResumeToken, next: func() (proto.Message, error) {
		event, err := watch.Next()
		return event, err
	}}
	return answer{}, nil
}

func (p *probe) next(c *command) (answer, error) {
	message, err := p.streams[c.Stream].next()
	if err == io.EOF {
		return answer{"end": true}, nil
	}
	if err != nil {
		return nil, err
	}
	result, err := encoded(message)
	if token := p.streams[c.Stream].token; token != nil {
		result["token"] = token()
	}
	return result, err
}

func encoded(message proto.Message) (answer, error) {
	data, err := proto.Marshal(message)
	return answer{"response": base64.StdEncoding.EncodeToString(data)}, err
}
