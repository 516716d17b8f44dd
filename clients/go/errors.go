// SPDX-License-Identifier: Apache-2.0

package virtblock

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/virtblock/virtblock/clients/go/virtblockv1"
)

// Error is libvirt's error as the server gave it, field for field. Every failed call returns one.
//
// Decide by number, as with libvirt's own Go module:
//
//	if errors.Is(err, virtblock.ERR_NO_DOMAIN) { … }
//
// and for the few failures that libvirt cannot have by Reason.
type Error struct {
	// Code is what went wrong (virErrorNumber).
	Code ErrorNumber
	// Domain is the part that found the error (virErrorDomain).
	Domain ErrorDomain
	// Level is how grave it is.
	Level ErrorLevel
	// Message is the whole text for people.
	Message string
	// Str1 to Str3 are libvirt's extra strings, as a rule the template and its detail; nil where libvirt has NULL.
	Str1, Str2, Str3 *string
	// Int1 is the errno for ERR_SYSTEM_ERROR, else -1, or 0 for an argument check. Int2 is -1, or 0 for an argument check.
	Int1, Int2 int32
	// Reason is the ErrorInfo's: "VIR_ERR_NO_DOMAIN", or one of the Reason constants. Empty: none came.
	Reason string

	status *status.Status
}

// Failures that libvirt cannot have, as Error.Reason tells them.
const (
	// ReasonBlockJobNotFound: the server holds no job of this id.
	ReasonBlockJobNotFound = "BLOCK_JOB_NOT_FOUND"
	// ReasonCompacted: the server no longer keeps all events since the resume token.
	ReasonCompacted = "COMPACTED"
	// ReasonRequestIDReused: the request_id was used before, with other arguments.
	ReasonRequestIDReused = "REQUEST_ID_REUSED"
	// ReasonSlowReader: the reader of a stream fell too far behind.
	ReasonSlowReader = "SLOW_READER"
)

// Error makes a number comparable by errors.Is.
func (n ErrorNumber) Error() string { return fmt.Sprintf("virErrorNumber %d", int32(n)) }

func (e *Error) Error() string {
	return fmt.Sprintf("virError(Code=%d, Domain=%d, Message='%s')", e.Code, e.Domain, e.Message)
}

// Is tells whether target is this error's number.
func (e *Error) Is(target error) bool {
	number, ok := target.(ErrorNumber)
	return ok && number == e.Code
}

// GRPCStatus gives the call's status, so that status.Code(err) works. Unknown where nothing was called.
func (e *Error) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.New(codes.Unknown, e.Message)
	}
	return e.status
}

// FromProto makes an error of a record, for example BlockJob.Error; nil for nil.
func FromProto(record *pb.VirError) *Error {
	if record == nil {
		return nil
	}
	return &Error{
		Code: ErrorNumber(record.GetNumber()), Domain: ErrorDomain(record.GetDomain()), Level: ErrorLevel(record.GetLevel()),
		Message: record.GetMessage(), Str1: record.Str1, Str2: record.Str2, Str3: record.Str3,
		Int1: record.GetInt1(), Int2: record.GetInt2(),
	}
}

// fromCall makes the error of a failed call; nil and io.EOF are the caller's to look at first.
func fromCall(err error, server target, method string) error {
	var done *Error
	if errors.As(err, &done) {
		return err
	}
	state := status.FromContextError(err)
	if sent, ok := status.FromError(err); ok {
		state = sent
	}
	result := sentByServer(state)
	if result == nil {
		result = withoutDetail(state, server, method[strings.LastIndex(method, "/")+1:])
	}
	result.status = state
	return result
}

func sentByServer(state *status.Status) *Error {
	var result *Error
	reason := ""
	for _, detail := range state.Details() {
		switch typed := detail.(type) {
		case *pb.VirError:
			result = FromProto(typed)
		case *errdetails.ErrorInfo:
			reason = typed.GetReason()
		}
	}
	if result != nil {
		result.Reason = reason
	}
	return result
}

// withoutDetail gives number and domain that libvirt's own remote client would give, and says what to do.
func withoutDetail(state *status.Status, server target, rpc string) *Error {
	result := &Error{Code: ERR_RPC, Domain: FROM_RPC, Level: ERR_ERROR, Int1: -1, Int2: -1}
	switch state.Code() {
	case codes.Unavailable:
		result.Code = ERR_SYSTEM_ERROR
		cause := state.Message()
		if errno, ok := connectErrno(cause); ok {
			result.Int1, cause = int32(errno), capitalized(errno.Error())
		}
		result.Message = fmt.Sprintf("cannot connect to virtblockd at %s: %s; is it running? start it with: virtblockd --listen %s",
			server, cause, strings.TrimSuffix(server.String(), readOnlySuffix))
	case codes.DeadlineExceeded:
		result.Code = ERR_OPERATION_TIMEOUT
		result.Message = fmt.Sprintf("%s: virtblockd at %s did not answer in time; what it was asked to do may go on", rpc, server)
	case codes.Unimplemented:
		result.Code = ERR_NO_SUPPORT
		result.Message = fmt.Sprintf("virtblockd at %s does not know the call %s: %s; it is older than this client", server, rpc, state.Message())
	case codes.Canceled:
		result.Code = ERR_OPERATION_ABORTED
		result.Message = fmt.Sprintf("%s: the call to virtblockd at %s was cancelled: %s", rpc, server, state.Message())
	default:
		result.Message = fmt.Sprintf("%s: the call to virtblockd at %s failed with %s: %s", rpc, server, code.Code(state.Code()), state.Message())
	}
	template := "%s"
	result.Str1, result.Str2 = &template, &result.Message
	return result
}

// connectErrno finds what the kernel said of a socket that nobody serves; gRPC passes it on in words alone.
func connectErrno(text string) (syscall.Errno, bool) {
	for _, errno := range []syscall.Errno{syscall.ENOENT, syscall.ECONNREFUSED, syscall.EACCES, syscall.ETIMEDOUT, syscall.EHOSTUNREACH} {
		if strings.Contains(text, errno.Error()) {
			return errno, true
		}
	}
	return 0, false
}

func capitalized(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
