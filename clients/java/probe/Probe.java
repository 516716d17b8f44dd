// SPDX-License-Identifier: Apache-2.0

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.Message;
import io.virtblock.BlockJobWatch;
import io.virtblock.Client;
import io.virtblock.ClientOptions;
import io.virtblock.Messages;
import io.virtblock.VirtblockError;
import io.virtblock.VirtblockException;
import io.virtblock.v1.WatchBlockJobsRequest;
import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;

/**
 * Runs conformance cases through this client: one JSON command a line on standard input, one JSON answer a line on standard
 * output, as tests/conformance/PROBE.md defines them. Messages travel as the base64 of their bytes.
 */
public final class Probe {
    private static final Gson JSON = new GsonBuilder().serializeNulls().create();

    private final Map<String, Client> clients = new HashMap<>();
    private final Map<String, Messages<? extends Message>> streams = new HashMap<>();

    private Probe() {}

    /** Answers until standard input ends. */
    public static void main(String[] arguments) throws Exception {
        Probe probe = new Probe();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream output = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            output.println(JSON.toJson(probe.run(JSON.fromJson(line, JsonObject.class))));
        }
    }

    private JsonObject run(JsonObject command) {
        try {
            return execute(command);
        } catch (VirtblockException failure) {
            return object("error", JSON.toJsonTree(fields(failure.getError())));
        } catch (Throwable crash) {
            return object("crash", new JsonPrimitive(crash + " at " + Arrays.toString(crash.getStackTrace())));
        }
    }

    private static Map<String, Object> fields(VirtblockError error) {
        Map<String, Object> fields = new HashMap<>();
        fields.put("number", error.getCode());
        fields.put("domain", error.getDomain());
        fields.put("level", error.getLevel());
        fields.put("message", error.getMessage());
        fields.put("str1", error.getStr1());
        fields.put("str2", error.getStr2());
        fields.put("str3", error.getStr3());
        fields.put("int1", error.getInt1());
        fields.put("int2", error.getInt2());
        fields.put("reason", error.getReason());
        return fields;
    }

    private JsonObject execute(JsonObject command) throws Exception {
        switch (command.get("op").getAsString()) {
            case "dial":
                return dial(command);
            case "call":
                return encoded((Message) calledInTime(command));
            case "open":
                streams.put(text(command, "stream"), opened(command));
                return new JsonObject();
            case "watch":
                WatchBlockJobsRequest request = WatchBlockJobsRequest.parseFrom(bytes(command));
                streams.put(text(command, "stream"), client(command).watchBlockJobs(request));
                return new JsonObject();
            case "next":
                return next(streams.get(text(command, "stream")));
            case "close_stream":
                streams.get(text(command, "stream")).close();
                return new JsonObject();
            case "close":
                client(command).close();
                return new JsonObject();
            default:
                throw new IllegalArgumentException("unknown op");
        }
    }

    private JsonObject dial(JsonObject command) throws VirtblockException {
        ClientOptions options = new ClientOptions();
        if (isSet(command, "read_only")) {
            options.readOnly();
        }
        if (isSet(command, "insecure")) {
            options.insecure();
        }
        if (text(command, "connection_uri") != null) {
            options.connectionUri(text(command, "connection_uri"));
        }
        if (command.get("tls") instanceof JsonObject tls) {
            options.tls(file(tls, "ca"), file(tls, "cert"), file(tls, "key"), text(tls, "server_name"));
        }
        Client client = Client.open(text(command, "target"), options);
        clients.put(text(command, "client"), client);
        return object("target", new JsonPrimitive(client.target()));
    }

    /** The call in a thread of its own, which is interrupted when the command says so. */
    private Object calledInTime(JsonObject command) throws Exception {
        FutureTask<Object> task = new FutureTask<>(() -> called(command));
        Thread caller = new Thread(task, "call");
        caller.start();
        if (command.has("cancel_after_ms")) {
            caller.join(command.get("cancel_after_ms").getAsLong());
            caller.interrupt();
        }
        try {
            return task.get();
        } catch (ExecutionException failed) {
            throw failed.getCause() instanceof Exception cause ? cause : failed;
        }
    }

    @SuppressWarnings("unchecked")
    private Messages<? extends Message> opened(JsonObject command) throws Exception {
        return (Messages<? extends Message>) called(command);
    }

    /** What the client's method for this RPC returns. */
    private Object called(JsonObject command) throws Exception {
        String[] names = text(command, "method").split("\\.");
        Object service = switch (names[0]) {
            case "ConnectService" -> client(command).connection();
            case "DomainService" -> client(command).domain();
            default -> client(command).jobs();
        };
        if (command.has("timeout_ms") && command.get("timeout_ms").getAsLong() > 0) {
            Duration timeout = Duration.ofMillis(command.get("timeout_ms").getAsLong());
            service = service.getClass().getMethod("withTimeout", Duration.class).invoke(service, timeout);
        }
        String name = names[1].substring(0, 1).toLowerCase() + names[1].substring(1);
        Method method = Arrays.stream(service.getClass().getMethods()).filter(each -> each.getName().equals(name)).findAny().orElseThrow();
        Object request = method.getParameterTypes()[0].getMethod("parseFrom", byte[].class).invoke(null, (Object) bytes(command));
        try {
            return method.invoke(service, request);
        } catch (InvocationTargetException failed) {
            throw failed.getCause() instanceof Exception cause ? cause : failed;
        }
    }

    private static JsonObject next(Messages<? extends Message> stream) throws VirtblockException {
        Message message = stream.next();
        if (message == null) {
            return object("end", new JsonPrimitive(true));
        }
        JsonObject answer = encoded(message);
        if (stream instanceof BlockJobWatch watch) {
            answer.addProperty("token", watch.resumeToken());
        }
        return answer;
    }

    private Client client(JsonObject command) {
        return clients.get(text(command, "client"));
    }

    private static JsonObject encoded(Message message) {
        return object("response", new JsonPrimitive(Base64.getEncoder().encodeToString(message.toByteArray())));
    }

    private static JsonObject object(String key, JsonElement value) {
        JsonObject made = new JsonObject();
        made.add(key, value);
        return made;
    }

    private static boolean isSet(JsonObject command, String key) {
        return command.has(key) && command.get(key).getAsBoolean();
    }

    private static String text(JsonObject command, String key) {
        JsonElement value = command.get(key);
        return value == null || value instanceof JsonNull || value.getAsString().isEmpty() ? null : value.getAsString();
    }

    private static File file(JsonObject tls, String key) {
        return text(tls, key) == null ? null : new File(text(tls, key));
    }

    private static byte[] bytes(JsonObject command) {
        return Base64.getDecoder().decode(command.get("request").getAsString());
    }
}
