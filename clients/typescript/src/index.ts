// SPDX-License-Identifier: Apache-2.0
export { Client, type CallOptions, type ClientOptions, type Service, type TlsOptions } from "./client.js";
export { isVirError, Reason, VirError } from "./errors.js";
export { Watch, type WatchOptions } from "./watch.js";
export * from "./gen/virtblock/v1/libvirt_enums.js";
export { type BlockJob, BlockJobState } from "./gen/virtblock/v1/block_job.js";
export { type BlockJobEvent, BlockMapCellState, type BlockJobFilter, type BlockMap } from "./gen/virtblock/v1/block_job_service.js";
export type { Domain, DomainSelector, TypedParameter } from "./gen/virtblock/v1/common.js";
export type { Disk } from "./gen/virtblock/v1/domain_block.js";
