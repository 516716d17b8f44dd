// SPDX-License-Identifier: Apache-2.0

package virtblock

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
)

const (
	systemSocket   = "/run/virtblock/virtblock-sock"
	readOnlySuffix = "-ro"
	// sockaddr_un.sun_path holds 108 bytes, the last one a NUL (unix(7)).
	socketPathBytesMax = 107
)

// target is a server's address: a unix socket by its absolute path, or a host and a port.
type target struct {
	path, host, port string
}

// parseTarget reads "unix:PATH", "unix:///PATH", an absolute path, "HOST:PORT" or "[IPV6]:PORT". An empty text means
// $VIRTBLOCK_SERVER, else the system's socket, else that of the user's own daemon.
func parseTarget(text string, readOnly bool) (target, error) {
	if text == "" {
		text = defaultTarget()
	}
	if strings.HasPrefix(text, "unix:") || strings.HasPrefix(text, "/") {
		return parseSocket(text, readOnly)
	}
	if readOnly {
		return target{}, invalid("server '%s': only a unix socket has a read-only one beside it", text)
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || strings.Contains(text, "/") {
		return target{}, invalid("server '%s' is neither unix:PATH nor HOST:PORT", text)
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return target{}, invalid("server '%s': the port is a number from 1 to 65535", text)
	}
	return target{host: host, port: port}, nil
}

func parseSocket(text string, readOnly bool) (target, error) {
	path := strings.TrimPrefix(text, "unix:")
	if strings.HasPrefix(path, "//") {
		// unix://HOST/PATH is another host's; three slashes are none's, so this one's.
		path = path[2:]
	}
	if !strings.HasPrefix(path, "/") {
		return target{}, invalid("server '%s': the path must be absolute, as in unix:%s", text, systemSocket)
	}
	if readOnly && !strings.HasSuffix(path, readOnlySuffix) {
		path += readOnlySuffix
	}
	if len(path) > socketPathBytesMax || strings.Contains(path, "\x00") {
		return target{}, invalid("server '%s': the path has %d bytes, a socket's at most %d", text, len(path), socketPathBytesMax)
	}
	return target{path: path}, nil
}

func defaultTarget() string {
	if server := os.Getenv("VIRTBLOCK_SERVER"); server != "" {
		return server
	}
	if runtimeDir := os.Getenv("XDG_RUNTIME_DIR"); runtimeDir != "" && !exists(systemSocket) {
		// Where neither is there, the error message speaks of the system's.
		if own := runtimeDir + "/virtblock/virtblock-sock"; exists(own) {
			return own
		}
	}
	return systemSocket
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// isLoopback tells whether the target surely is this machine.
func (t target) isLoopback() bool {
	if t.path != "" || t.host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(t.host)
	return err == nil && address.IsLoopback()
}

// grpcAddress is the target in gRPC's grammar, where a path is part of a URI.
func (t target) grpcAddress() string {
	if t.path != "" {
		return "unix://" + (&url.URL{Path: t.path}).EscapedPath()
	}
	return "dns:///" + net.JoinHostPort(t.host, t.port)
}

func (t target) String() string {
	if t.path != "" {
		return "unix:" + t.path
	}
	return net.JoinHostPort(t.host, t.port)
}

func invalid(format string, arguments ...any) *Error {
	text := fmt.Sprintf(format, arguments...)
	template := "invalid argument: %s"
	return &Error{Code: ERR_INVALID_ARG, Domain: FROM_RPC, Level: ERR_ERROR, Message: "invalid argument: " + text, Str1: &template, Str2: &text, Int1: -1, Int2: -1}
}
