// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import io.grpc.Context;
import io.grpc.StatusRuntimeException;
import java.util.Iterator;
import java.util.function.Function;
import java.util.function.Supplier;

/** The messages of one stream of the server. */
final class MessageStream<T> extends Messages<T> {
    private final Context.CancellableContext scope = Context.current().withCancellation();
    private final Function<StatusRuntimeException, VirtblockException> failed;
    private final Iterator<T> messages;

    MessageStream(Supplier<Iterator<T>> opened, Function<StatusRuntimeException, VirtblockException> failed) {
        this.failed = failed;
        Context previous = scope.attach();
        try {
            messages = opened.get();
        } finally {
            scope.detach(previous);
        }
    }

    @Override
    public T next() throws VirtblockException {
        try {
            if (messages.hasNext()) {
                return messages.next();
            }
            close();
            return null;
        } catch (StatusRuntimeException failure) {
            close();
            throw failed.apply(failure);
        }
    }

    @Override
    public void close() {
        scope.cancel(null);
    }
}
