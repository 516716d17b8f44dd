// SPDX-License-Identifier: Apache-2.0

// Package virtblock calls a virtblock server: libvirt's block-job calls, with libvirt's flags and errors, on running and on
// shut-off virtual machines.
//
// A Client has the three services of the contract. A call is named after libvirt's, takes the contract's request, whose
// comments have meaning, units and errors, and fails with *Error:
//
//	client, err := virtblock.Dial("unix:/run/virtblock/virtblock-sock")
//	…
//	answer, err := client.Domain.BlockRebase(ctx, &virtblockv1.BlockRebaseRequest{
//		Domain: virtblock.ByName("guest"), Disk: proto.String("vda"), Base: proto.String("/images/copy.qcow2"),
//		Flags: virtblock.DOMAIN_BLOCK_REBASE_COPY,
//	})
//
// A deadline or a cancelled context ends the call, never the job.
package virtblock

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/virtblock/virtblock/clients/go/virtblockv1"
)

const (
	// A server that vanished without a word is noticed, also by a stream that only waits.
	keepaliveTime     = 30 * time.Second
	keepaliveTimeout  = 10 * time.Second
	reconnectDelay    = 100 * time.Millisecond
	reconnectDelayMax = time.Second
	messageBytesMax   = 16 << 20
)

// Repeated is only what does no thing twice: reads, and calls that start a job, which always carry a request_id.
//
//go:embed service_config.json
var serviceConfig string

// Client is a connection to a server. It may be used by any number of goroutines.
type Client struct {
	// Connect has libvirt's calls on a connection: look-ups, lists, definitions, events.
	Connect pb.ConnectServiceClient
	// Domain has libvirt's calls on a domain, the block jobs among them.
	Domain pb.DomainServiceClient
	// Jobs has what libvirt lacks: jobs by id, kept after their end. See also WatchBlockJobs.
	Jobs pb.BlockJobServiceClient

	conn          *grpc.ClientConn
	target        target
	connectionURI string
}

type settings struct {
	readOnly, insecure  bool
	connectionURI       string
	tls                 bool
	ca, cert, key, name string
}

// Option changes how Dial connects.
type Option func(*settings)

// WithReadOnly takes the socket beside, PATH-ro, which refuses what changes anything.
func WithReadOnly() Option { return func(s *settings) { s.readOnly = true } }

// WithInsecure goes without encryption, to this machine only.
func WithInsecure() Option { return func(s *settings) { s.insecure = true } }

// WithConnectionURI chooses the hypervisor connection, for example "qemu:///system", of every request that names none.
func WithConnectionURI(uri string) Option { return func(s *settings) { s.connectionURI = uri } }

// WithTLS names PEM files: the authorities that may sign for the server (empty: the system's), and the certificate and key
// that the client shows of itself (both or none). serverName is the name in the server's certificate, where it is not the host.
func WithTLS(ca, cert, key, serverName string) Option {
	return func(s *settings) { s.tls, s.ca, s.cert, s.key, s.name = true, ca, cert, key, serverName }
}

// Dial makes a client of the server at "unix:PATH", an absolute path, or "HOST:PORT" (TLS). An empty address means
// $VIRTBLOCK_SERVER, else the system's socket, else that of the user's own daemon. The server is not contacted before the first
// call. Fails with ERR_INVALID_ARG.
func Dial(address string, options ...Option) (*Client, error) {
	var chosen settings
	for _, option := range options {
		option(&chosen)
	}
	server, err := parseTarget(address, chosen.readOnly)
	if err != nil {
		return nil, err
	}
	trust, err := chosen.credentials(server)
	if err != nil {
		return nil, err
	}
	client := &Client{target: server, connectionURI: chosen.connectionURI}
	client.conn, err = grpc.NewClient(server.grpcAddress(),
		grpc.WithTransportCredentials(trust), grpc.WithDefaultServiceConfig(serviceConfig), grpc.WithDisableServiceConfig(),
		grpc.WithUnaryInterceptor(client.unary), grpc.WithStreamInterceptor(client.stream), grpc.WithNoProxy(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{
			BaseDelay: reconnectDelay, Multiplier: 2, Jitter: 0.2, MaxDelay: reconnectDelayMax}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)))
	if err != nil {
		return nil, invalid("server '%s': %v", address, err)
	}
	client.Connect, client.Domain = pb.NewConnectServiceClient(client.conn), pb.NewDomainServiceClient(client.conn)
	client.Jobs = pb.NewBlockJobServiceClient(client.conn)
	return client, nil
}

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

// Conn gives the connection, for calls that this package does not know. It turns errors into *Error as well.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Target is the server's address.
func (c *Client) Target() string { return c.target.String() }

// ByName selects a domain by its name.
func ByName(name string) *pb.DomainSelector {
	return &pb.DomainSelector{Domain: &pb.DomainSelector_Name{Name: name}}
}

// ByUUID selects a domain by its UUID, which never changes.
func ByUUID(uuid string) *pb.DomainSelector {
	return &pb.DomainSelector{Domain: &pb.DomainSelector_Uuid{Uuid: uuid}}
}

// ByID selects an active domain by its id.
func ByID(id int32) *pb.DomainSelector {
	return &pb.DomainSelector{Domain: &pb.DomainSelector_Id{Id: id}}
}

func (s *settings) credentials(server target) (credentials.TransportCredentials, error) {
	switch {
	case s.insecure && s.tls:
		return nil, invalid("a link is either insecure or has TLS options, not both")
	case s.insecure && !server.isLoopback():
		return nil, invalid("server '%s': insecure is for this machine alone, as in 127.0.0.1:%s", server, server.port)
	case s.tls && server.path != "":
		return nil, invalid("server '%s': a unix socket has no TLS", server)
	case (s.cert == "") != (s.key == ""):
		return nil, invalid("a TLS certificate and its key are given both or not at all")
	case s.insecure || server.path != "":
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.name}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		config.RootCAs = x509.NewCertPool()
		if err != nil || !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, invalid("TLS file '%s': %v", s.ca, errors.Join(err, errors.New("no certificates can be read from it")))
		}
	}
	if s.cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, invalid("TLS files '%s' and '%s': %v", s.cert, s.key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}

func (c *Client) unary(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if err := invoke(ctx, method, c.complete(request), answer, conn, options...); err != nil {
		return fromCall(err, c.target, method)
	}
	return nil
}

func (c *Client) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, conn, method, options...)
	if err != nil {
		return nil, fromCall(err, c.target, method)
	}
	return &clientStream{stream, c, method}, nil
}

type clientStream struct {
	grpc.ClientStream
	client *Client
	method string
}

func (s *clientStream) SendMsg(message any) error {
	return s.ClientStream.SendMsg(s.client.complete(message))
}

func (s *clientStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err != nil && err != io.EOF {
		return fromCall(err, s.client.target, s.method)
	}
	return err
}

// complete fills in what the caller left to the client, in a copy: the connection, and the request_id of a call that starts a
// job, without which a repeat after a lost answer could not be told from a second job.
func (c *Client) complete(request any) any {
	message, ok := request.(proto.Message)
	if !ok {
		return request
	}
	copied := proto.Clone(message).ProtoReflect()
	setIfEmpty(copied, "request_id", rand.Text)
	if c.connectionURI != "" {
		uri := func() string { return c.connectionURI }
		setIfEmpty(copied, "connection_uri", uri)
		for _, name := range []protoreflect.Name{"domain", "filter"} {
			if field := copied.Descriptor().Fields().ByName(name); field != nil && field.Message() != nil && copied.Has(field) {
				setIfEmpty(copied.Mutable(field).Message(), "connection_uri", uri)
			}
		}
	}
	return copied.Interface()
}

func setIfEmpty(message protoreflect.Message, name protoreflect.Name, value func() string) {
	field := message.Descriptor().Fields().ByName(name)
	if field != nil && field.Kind() == protoreflect.StringKind && !message.Has(field) {
		message.Set(field, protoreflect.ValueOfString(value()))
	}
}
