// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import java.util.Iterator;
import java.util.Objects;
import java.util.stream.Stream;

/** Messages that come one after the other until their source ends, fails or is closed. One thread reads them; any may close. */
public abstract class Messages<T> implements Iterable<T>, AutoCloseable {
    Messages() {}

    /** Waits for the next message; null at the end. */
    public abstract T next() throws VirtblockException;

    /** Ends it. A next that waits fails with VIR_ERR_OPERATION_ABORTED. */
    @Override
    public abstract void close();

    /** The messages yet to come, as next gives them; its failure is a {@link VirtblockException.Unchecked}. */
    @Override
    public Iterator<T> iterator() {
        return Stream.generate(this::nextUnchecked).takeWhile(Objects::nonNull).iterator();
    }

    private T nextUnchecked() {
        try {
            return next();
        } catch (VirtblockException failure) {
            throw new VirtblockException.Unchecked(failure);
        }
    }
}
