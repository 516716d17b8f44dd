// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import com.google.common.base.Strings;
import com.google.common.net.UrlEscapers;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A server's address: a unix socket by its absolute path, or a host, an IPv6 address in brackets, and a port. */
record Target(String path, String host, String port) {
    private static final String READ_ONLY_SUFFIX = "-ro";
    private static final String SYSTEM_SOCKET = "/run/virtblock/virtblock-sock";
    // sockaddr_un.sun_path holds 108 bytes, the last one a NUL (unix(7)).
    private static final int SOCKET_PATH_BYTES_MAX = 107;
    private static final int PORT_MAX = 65535;
    private static final Pattern HOST_AND_PORT = Pattern.compile("(\\[[^\\[\\]/]+]|[^\\[\\]:/]+):([^:/]*)");
    private static final String BYTE = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
    private static final Pattern LOOPBACK = Pattern.compile("localhost|\\[::1]|127(\\." + BYTE + "){3}");

    /** Reads what {@link Client#open(String)} takes. */
    static Target parse(String text, boolean readOnly) throws VirtblockException {
        String server = Strings.isNullOrEmpty(text) ? defaultServer() : text;
        if (server.startsWith("unix:") || server.startsWith("/")) {
            return socket(server, readOnly);
        }
        Failures.require(!readOnly, "server '%s': only a unix socket has a read-only one beside it", server);
        Matcher parts = HOST_AND_PORT.matcher(server);
        Failures.require(parts.matches(), "server '%s' is neither unix:PATH nor HOST:PORT", server);
        Failures.require(parts.group(2).matches("0*[1-9]\\d{0,4}") && Integer.parseInt(parts.group(2)) <= PORT_MAX,
                "server '%s': the port is a number from 1 to 65535", server);
        return new Target(null, parts.group(1), parts.group(2));
    }

    private static Target socket(String server, boolean readOnly) throws VirtblockException {
        // unix://HOST/PATH is another host's; three slashes are none's, so this one's.
        String path = server.replaceFirst("^(unix:)?(//)?", "");
        Failures.require(path.startsWith("/"),
                "server '%s': the path must be absolute, as in unix:%s", server, SYSTEM_SOCKET);
        String chosen = readOnly && !path.endsWith(READ_ONLY_SUFFIX) ? path + READ_ONLY_SUFFIX : path;
        int lengthBytes = chosen.getBytes(StandardCharsets.UTF_8).length;
        Failures.require(lengthBytes <= SOCKET_PATH_BYTES_MAX && chosen.indexOf('\0') < 0,
                "server '%s': the path has %d bytes, a socket's at most %d", server, lengthBytes, SOCKET_PATH_BYTES_MAX);
        return new Target(chosen, null, null);
    }

    private static String defaultServer() {
        String runtimeDir = System.getenv("XDG_RUNTIME_DIR");
        String own = runtimeDir + "/virtblock/virtblock-sock";
        if (!Strings.isNullOrEmpty(System.getenv("VIRTBLOCK_SERVER"))) {
            return System.getenv("VIRTBLOCK_SERVER");
        }
        // Where neither is there, the error message speaks of the system's.
        boolean isOwn = !Strings.isNullOrEmpty(runtimeDir) && !new File(SYSTEM_SOCKET).exists() && new File(own).exists();
        return isOwn ? own : SYSTEM_SOCKET;
    }

    boolean isSocket() {
        return path != null;
    }

    /** Whether the target surely is this machine. */
    boolean isLoopback() {
        return isSocket() || LOOPBACK.matcher(host).matches();
    }

    /** The target in gRPC's grammar, where it is part of a URI. */
    String grpcAddress() {
        String quoted = UrlEscapers.urlPathSegmentEscaper().escape(isSocket() ? path : toString());
        return isSocket() ? "unix://" + quoted.replace("%2F", "/") : "dns:///" + quoted;
    }

    /** The address without the suffix of the read-only socket, which a server makes by itself. */
    String readWrite() {
        return isSocket() && path.endsWith(READ_ONLY_SUFFIX) ? toString().replaceFirst(READ_ONLY_SUFFIX + "$", "") : toString();
    }

    @Override
    public String toString() {
        return isSocket() ? "unix:" + path : host + ":" + port;
    }
}
