# SPDX-License-Identifier: Apache-2.0
"""DomainService: virDomain*. Each method decodes, makes one call of the core, and encodes."""

from __future__ import annotations

from virtblock.server.rpc.convert import (
    block_job_info_message,
    disk_message,
    domain_message,
    job_message,
    or_null,
    parameters_of,
    selector_of,
)
from virtblock.server.rpc.servicing import Context, Servicing
from virtblock.server.rpc.text import wire_text
from virtblock.v1 import domain_block_pb2 as blocks
from virtblock.v1 import domain_service_pb2 as messages
from virtblock.v1 import domain_service_pb2_grpc
from virtblock.v1 import libvirt_enums_pb2 as enums


class DomainServicer(Servicing, domain_service_pb2_grpc.DomainServiceServicer):
    """virDomain*, by libvirt's names without `virDomain`."""

    async def GetXMLDesc(self, request: messages.GetXMLDescRequest, context: Context) -> messages.GetXMLDescResponse:
        api, caller = self._floor.domains, self._caller(context)
        xml = await self._blocking(api.get_xml_desc, caller, selector_of(request.domain), request.flags)
        return messages.GetXMLDescResponse(xml=wire_text(xml))

    async def GetState(self, request: messages.GetStateRequest, context: Context) -> messages.GetStateResponse:
        api, caller = self._floor.domains, self._caller(context)
        state, reason = await self._cheap(api.get_state, caller, selector_of(request.domain), request.flags)
        return messages.GetStateResponse(state=enums.DomainState.ValueType(state), reason=reason)

    async def GetInfo(self, request: messages.GetInfoRequest, context: Context) -> messages.GetInfoResponse:
        api, caller = self._floor.domains, self._caller(context)
        state, max_memory_kib, memory_kib, vcpu_count, cpu_time_ns = await self._cheap(
            api.get_info, caller, selector_of(request.domain)
        )
        return messages.GetInfoResponse(
            state=enums.DomainState.ValueType(state),
            max_memory_kib=max_memory_kib,
            memory_kib=memory_kib,
            vcpu_count=vcpu_count,
            cpu_time_ns=cpu_time_ns,
        )

    async def IsActive(self, request: messages.IsActiveRequest, context: Context) -> messages.IsActiveResponse:
        api, caller = self._floor.domains, self._caller(context)
        return messages.IsActiveResponse(active=await self._cheap(api.is_active, caller, selector_of(request.domain)))

    async def IsPersistent(
        self, request: messages.IsPersistentRequest, context: Context
    ) -> messages.IsPersistentResponse:
        api, caller = self._floor.domains, self._caller(context)
        persistent = await self._cheap(api.is_persistent, caller, selector_of(request.domain))
        return messages.IsPersistentResponse(persistent=persistent)

    async def Create(self, request: messages.CreateRequest, context: Context) -> messages.CreateResponse:
        api, caller = self._floor.domains, self._caller(context)
        domain = await self._blocking(api.create, caller, selector_of(request.domain), request.flags)
        return messages.CreateResponse(domain=domain_message(domain))

    async def Destroy(self, request: messages.DestroyRequest, context: Context) -> messages.DestroyResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.destroy, caller, selector_of(request.domain), request.flags)
        return messages.DestroyResponse()

    async def Shutdown(self, request: messages.ShutdownRequest, context: Context) -> messages.ShutdownResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.shutdown, caller, selector_of(request.domain))
        return messages.ShutdownResponse()

    async def Undefine(self, request: messages.UndefineRequest, context: Context) -> messages.UndefineResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.undefine, caller, selector_of(request.domain), request.flags)
        return messages.UndefineResponse()

    async def Suspend(self, request: messages.SuspendRequest, context: Context) -> messages.SuspendResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.suspend, caller, selector_of(request.domain))
        return messages.SuspendResponse()

    async def Resume(self, request: messages.ResumeRequest, context: Context) -> messages.ResumeResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.resume, caller, selector_of(request.domain))
        return messages.ResumeResponse()

    async def BlockRebase(self, request: blocks.BlockRebaseRequest, context: Context) -> blocks.BlockRebaseResponse:
        job = await self._blocking(
            self._floor.blocks.block_rebase,
            self._caller(context),
            selector_of(request.domain),
            or_null(request, "disk"),
            or_null(request, "base"),
            request.bandwidth,
            request.flags,
            request.request_id,
        )
        return blocks.BlockRebaseResponse(job=job_message(job))

    async def BlockCopy(self, request: blocks.BlockCopyRequest, context: Context) -> blocks.BlockCopyResponse:
        job = await self._blocking(
            self._floor.blocks.block_copy,
            self._caller(context),
            selector_of(request.domain),
            or_null(request, "disk"),
            or_null(request, "dest_xml"),
            parameters_of(request.params),
            request.flags,
            request.request_id,
            pivot_persistent=request.pivot_persistent,
        )
        return blocks.BlockCopyResponse(job=job_message(job))

    async def BlockPull(self, request: blocks.BlockPullRequest, context: Context) -> blocks.BlockPullResponse:
        job = await self._blocking(
            self._floor.blocks.block_pull,
            self._caller(context),
            selector_of(request.domain),
            or_null(request, "disk"),
            request.bandwidth,
            request.flags,
            request.request_id,
        )
        return blocks.BlockPullResponse(job=job_message(job))

    async def BlockCommit(self, request: blocks.BlockCommitRequest, context: Context) -> blocks.BlockCommitResponse:
        job = await self._blocking(
            self._floor.blocks.block_commit,
            self._caller(context),
            selector_of(request.domain),
            or_null(request, "disk"),
            or_null(request, "base"),
            or_null(request, "top"),
            request.bandwidth,
            request.flags,
            request.request_id,
        )
        return blocks.BlockCommitResponse(job=job_message(job))

    async def BlockJobAbort(
        self, request: blocks.BlockJobAbortRequest, context: Context
    ) -> blocks.BlockJobAbortResponse:
        api, caller = self._floor.blocks, self._caller(context)
        job = await self._blocking(
            api.block_job_abort, caller, selector_of(request.domain), or_null(request, "disk"), request.flags
        )
        return blocks.BlockJobAbortResponse(job=job_message(job) if job is not None else None)

    async def GetBlockJobInfo(
        self, request: blocks.GetBlockJobInfoRequest, context: Context
    ) -> blocks.GetBlockJobInfoResponse:
        api, caller = self._floor.blocks, self._caller(context)
        info = await self._blocking(  # libvirt asks the hypervisor
            api.get_block_job_info, caller, selector_of(request.domain), or_null(request, "disk"), request.flags
        )
        return block_job_info_message(info)

    async def BlockJobSetSpeed(
        self, request: blocks.BlockJobSetSpeedRequest, context: Context
    ) -> blocks.BlockJobSetSpeedResponse:
        await self._blocking(
            self._floor.blocks.block_job_set_speed,
            self._caller(context),
            selector_of(request.domain),
            or_null(request, "disk"),
            request.bandwidth,
            request.flags,
        )
        return blocks.BlockJobSetSpeedResponse()

    async def BlockResize(self, request: blocks.BlockResizeRequest, context: Context) -> blocks.BlockResizeResponse:
        await self._blocking(
            self._floor.domains.block_resize,
            self._caller(context),
            selector_of(request.domain),
            or_null(request, "disk"),
            request.size,
            request.flags,
        )
        return blocks.BlockResizeResponse()

    async def GetBlockInfo(self, request: blocks.GetBlockInfoRequest, context: Context) -> blocks.GetBlockInfoResponse:
        api, caller = self._floor.domains, self._caller(context)
        info = await self._blocking(
            api.get_block_info, caller, selector_of(request.domain), or_null(request, "disk"), request.flags
        )
        return blocks.GetBlockInfoResponse(
            capacity_bytes=info.capacity_bytes,
            allocation_bytes=info.allocation_bytes,
            physical_bytes=info.physical_bytes,
        )

    async def BlockStats(self, request: blocks.BlockStatsRequest, context: Context) -> blocks.BlockStatsResponse:
        api, caller = self._floor.domains, self._caller(context)
        read_request_count, read_bytes, write_request_count, write_bytes, error_count = await self._blocking(
            api.block_stats, caller, selector_of(request.domain), or_null(request, "disk")
        )
        return blocks.BlockStatsResponse(
            read_request_count=read_request_count,
            read_bytes=read_bytes,
            write_request_count=write_request_count,
            write_bytes=write_bytes,
            error_count=error_count,
        )

    async def Save(self, request: messages.SaveRequest, context: Context) -> messages.SaveResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.save, caller, selector_of(request.domain), or_null(request, "to"))
        return messages.SaveResponse()

    async def SaveFlags(self, request: messages.SaveFlagsRequest, context: Context) -> messages.SaveFlagsResponse:
        await self._blocking(
            self._floor.domains.save_flags,
            self._caller(context),
            selector_of(request.domain),
            or_null(request, "to"),
            or_null(request, "dxml"),
            request.flags,
        )
        return messages.SaveFlagsResponse()

    async def ManagedSave(self, request: messages.ManagedSaveRequest, context: Context) -> messages.ManagedSaveResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.managed_save, caller, selector_of(request.domain), request.flags)
        return messages.ManagedSaveResponse()

    async def SnapshotCreateXML(
        self, request: messages.SnapshotCreateXMLRequest, context: Context
    ) -> messages.SnapshotCreateXMLResponse:
        api, caller = self._floor.domains, self._caller(context)
        name, xml = await self._blocking(
            api.snapshot_create_xml, caller, selector_of(request.domain), request.xml, request.flags
        )
        return messages.SnapshotCreateXMLResponse(name=name, xml=wire_text(xml))

    async def RevertToSnapshot(
        self, request: messages.RevertToSnapshotRequest, context: Context
    ) -> messages.RevertToSnapshotResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(
            api.revert_to_snapshot, caller, selector_of(request.domain), request.snapshot_name, request.flags
        )
        return messages.RevertToSnapshotResponse()

    async def DetachDevice(
        self, request: messages.DetachDeviceRequest, context: Context
    ) -> messages.DetachDeviceResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.detach_device, caller, selector_of(request.domain), request.xml)
        return messages.DetachDeviceResponse()

    async def DetachDeviceFlags(
        self, request: messages.DetachDeviceFlagsRequest, context: Context
    ) -> messages.DetachDeviceFlagsResponse:
        api, caller = self._floor.domains, self._caller(context)
        await self._blocking(api.detach_device_flags, caller, selector_of(request.domain), request.xml, request.flags)
        return messages.DetachDeviceFlagsResponse()

    async def ListDisks(self, request: blocks.ListDisksRequest, context: Context) -> blocks.ListDisksResponse:
        api, caller = self._floor.domains, self._caller(context)
        disks = await self._blocking(api.list_disks, caller, selector_of(request.domain))
        return blocks.ListDisksResponse(disks=map(disk_message, disks))
