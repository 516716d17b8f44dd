// SPDX-License-Identifier: Apache-2.0
/** A watch of block jobs over as many streams as it takes. */
import { status } from "@grpc/grpc-js";

import { BlockJobEvent, BlockJobFilter, WatchBlockJobsResponse } from "./gen/virtblock/v1/block_job_service.js";
import type { Client } from "./client.js";
import { Reason, VirError } from "./errors.js";

const PAUSE_FIRST_MS = 100;
const PAUSE_MAX_MS = 5000;

export interface WatchOptions {
  /** `Watch.resumeToken` of the last event that was handled; empty: from now on. */
  resumeToken?: string;
  /** Which jobs. Undefined: all. */
  filter?: Partial<BlockJobFilter> | undefined;
  /** Begin with every job that matches and has not ended. */
  includeSnapshot?: boolean;
  /** Least time between two progress events of one job. 0: none. */
  progressIntervalMs?: number;
  /** Ends the watch. */
  signal?: AbortSignal;
}

/** Iterates events: `for await (const event of watch)`. `close` ends it at once. */
export class Watch implements AsyncIterableIterator<BlockJobEvent> {
  readonly #client: Client;
  readonly #options: WatchOptions;
  readonly #stop = new AbortController();
  #stream: AsyncIterableIterator<WatchBlockJobsResponse> | undefined;
  #receivedToken: string;
  #shownToken: string;
  #wantsSnapshot: boolean;
  #lastSequence = -1n;
  #failures = 0;
  #reached = false;
  #pending: BlockJobEvent[] = [];

  private constructor(client: Client, options: WatchOptions) {
    this.#client = client;
    this.#options = options;
    this.#receivedToken = this.#shownToken = options.resumeToken ?? "";
    this.#wantsSnapshot = (options.includeSnapshot ?? false) && !this.#receivedToken;
    options.signal?.addEventListener("abort", () => this.close());
  }

  /** A server that cannot be reached now is an error at once; later the watch bears it. */
  static async open(client: Client, options: WatchOptions): Promise<Watch> {
    const watch = new Watch(client, options);
    await watch.#receive();
    return watch;
  }

  /** Goes on after the last event that was shown, in another process as well. Empty: nothing was shown yet to go on after. */
  get resumeToken(): string {
    return this.#shownToken;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<BlockJobEvent>> {
    while (!this.#stop.signal.aborted) {
      const event = this.#pending.shift();
      if (event === undefined) {
        await this.#receive();
        continue;
      }
      this.#shownToken = event.resumeToken || this.#shownToken;
      if (event.job || event.progress) {
        return { done: false, value: event };
      }
    }
    return { done: true, value: undefined };
  }

  async return(): Promise<IteratorResult<BlockJobEvent>> {
    this.close();
    return { done: true, value: undefined };
  }

  close(): void {
    this.#stop.abort();
  }

  /** Waits until there is something in `#pending`, over the ends of streams. */
  async #receive(): Promise<void> {
    while (!this.#stop.signal.aborted && this.#pending.length === 0) {
      let failure: VirError | undefined;
      try {
        this.#stream ??= this.#open();
        if (await this.#readOnce(this.#stream)) {
          continue;
        }
      } catch (error) {
        failure = error as VirError;
      }
      this.#stream = undefined;
      if (this.#stop.signal.aborted) {
        return;
      }
      if (failure && !(this.#reached && helpsToRetry(failure))) {
        throw failure;
      }
      await this.#pause();
    }
  }

  #open(): AsyncIterableIterator<WatchBlockJobsResponse> {
    const request = {
      resumeToken: this.#receivedToken,
      filter: this.#options.filter,
      includeSnapshot: this.#wantsSnapshot,
      progressIntervalMs: this.#options.progressIntervalMs ?? 0,
    };
    return this.#client.jobs.watchBlockJobs(request, { signal: this.#stop.signal });
  }

  /** One event, or a whole snapshot: a token from its middle would lose the rest of it. False: the stream is over. */
  async #readOnce(stream: AsyncIterator<WatchBlockJobsResponse>): Promise<boolean> {
    const snapshot: BlockJobEvent[] = [];
    for (;;) {
      const { done, value } = await stream.next();
      if (done) {
        return false;
      }
      const event = (value as WatchBlockJobsResponse).event ?? BlockJobEvent.create();
      this.#failures = 0;
      this.#reached = true;
      if (!this.#wantsSnapshot) {
        this.#takeLive(event);
        return true;
      }
      if (event.bookmark?.snapshotEnd) {
        this.#wantsSnapshot = false;
        this.#lastSequence = event.sequence;
        this.#receivedToken = event.resumeToken;
        this.#pending.push(...snapshot, event);
        return true;
      }
      if (event.job) {
        snapshot.push({ ...event, resumeToken: "" });
      }
    }
  }

  #takeLive(event: BlockJobEvent): void {
    if (event.job && event.sequence <= this.#lastSequence) {
      // The reader has this change, as a bookmark or an earlier stream told; its token would lead back.
      return;
    }
    this.#receivedToken = event.resumeToken || this.#receivedToken;
    if (!event.progress && event.sequence > this.#lastSequence) {
      this.#lastSequence = event.sequence;
    }
    this.#pending.push(event);
  }

  #pause(): Promise<void> {
    const longest = Math.min(PAUSE_FIRST_MS * 2 ** Math.min(this.#failures++, 10), PAUSE_MAX_MS);
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#stop.signal.removeEventListener("abort", done);
        resolve();
      };
      // Half of it at random, so that all clients of a restarted server do not come back at the same moment.
      const timer = setTimeout(done, longest * (0.5 + Math.random() / 2));
      this.#stop.signal.addEventListener("abort", done);
    });
  }
}

function helpsToRetry(error: VirError): boolean {
  if (error.code === status.UNAVAILABLE || error.reason === Reason.SLOW_READER) {
    return true;
  }
  // A server that stops cancels its streams; one that is full refuses new ones. Neither says so as libvirt.
  return !error.reason && (error.code === status.CANCELLED || error.code === status.RESOURCE_EXHAUSTED);
}
