# SPDX-License-Identifier: Apache-2.0
"""Every command with its options and texts.

Owns: what may be typed. Invariants: names, kinds, order and texts are virsh's; an option that virsh has and this
program cannot serve is left out, so that it is refused by name. Nothing here loads the client: `help` and a mistyped
command answer at once.
"""

from __future__ import annotations

from virtblock.cli.grammar import Command, Kind, Option
from virtblock.cli.help_text import Group

_DOMAIN = Option("domain", "domain name, id or uuid", Kind.TEXT, required=True)

DEFINE = Command(
    "define",
    "define (but don't start) a domain from an XML file",
    "Define a domain.",
    (
        Option("file", "file containing an XML domain description", Kind.TEXT, required=True),
        Option("validate", "validate the XML against the schema"),
    ),
    "domain_commands:run_define",
)
UNDEFINE = Command(
    "undefine",
    "undefine a domain",
    "Undefine an inactive domain, or convert persistent to transient.",
    (
        _DOMAIN,
        Option("managed-save", "remove domain managed state file"),
        Option("snapshots-metadata", "remove all domain snapshot metadata (vm must be inactive)"),
        Option("checkpoints-metadata", "remove all domain checkpoint metadata (vm must be inactive)"),
        Option("nvram", "remove nvram file"),
        Option("keep-nvram", "keep nvram file"),
        Option("tpm", "remove TPM state"),
        Option("keep-tpm", "keep TPM state"),
    ),
    "domain_commands:run_undefine",
)
DUMPXML = Command(
    "dumpxml",
    "domain information in XML",
    "Output the domain information as an XML dump to stdout.",
    (
        _DOMAIN,
        Option("inactive", "show inactive defined XML"),
        Option("security-info", "include security sensitive information in XML dump"),
        Option("update-cpu", "update guest CPU according to host CPU"),
        Option("migratable", "provide XML suitable for migrations"),
    ),
    "domain_commands:run_dumpxml",
)
_FILE = Option("file", "file containing an XML domain description", Kind.TEXT, required=True)
_PAUSED = Option("paused", "leave the guest paused after creation")
_RESET_NVRAM = Option("reset-nvram", "re-initialize NVRAM from its pristine template")
CREATE = Command(
    "create",
    "create a domain from an XML file",
    "Create a domain.",
    (_FILE, _PAUSED, Option("validate", "validate the XML against the schema"), _RESET_NVRAM),
    "lifecycle_commands:run_create",
)
START = Command(
    "start",
    "start a (previously defined) inactive domain",
    "Start a domain, either from the last managedsave\nstate, or via a fresh boot if no managedsave state\nis present.",
    (
        Option("domain", "name of the inactive domain", Kind.TEXT, required=True),
        _PAUSED,
        Option("bypass-cache", "avoid file system cache when loading"),
        Option("force-boot", "force fresh boot by discarding any managed save"),
        _RESET_NVRAM,
    ),
    "lifecycle_commands:run_start",
)
SUSPEND = Command(
    "suspend", "suspend a domain", "Suspend a running domain.", (_DOMAIN,), "lifecycle_commands:run_suspend"
)
RESUME = Command(
    "resume", "resume a domain", "Resume a previously suspended domain.", (_DOMAIN,), "lifecycle_commands:run_resume"
)
SHUTDOWN = Command(
    "shutdown",
    "gracefully shutdown a domain",
    "Run shutdown in the target domain.",
    (_DOMAIN,),
    "lifecycle_commands:run_shutdown",
)
DESTROY = Command(
    "destroy",
    "destroy (stop) a domain",
    "Forcefully stop a given domain, but leave its resources intact.",
    (_DOMAIN, Option("graceful", "terminate gracefully"), Option("remove-logs", "remove domain logs")),
    "lifecycle_commands:run_destroy",
)
_BYPASS_CACHE = Option("bypass-cache", "avoid file system cache when saving")
SAVE = Command(
    "save",
    "save a domain state to a file",
    "Save the RAM state of a running domain.",
    (
        _DOMAIN,
        Option("file", "where to save the data", Kind.TEXT, required=True),
        _BYPASS_CACHE,
        Option("xml", "filename containing updated XML for the target", Kind.TEXT),
        Option("running", "set domain to be running on restore"),
        Option("paused", "set domain to be paused on restore"),
    ),
    "lifecycle_commands:run_save",
)
MANAGEDSAVE = Command(
    "managedsave",
    "managed save of a domain state",
    "Save and destroy a running domain, so it can be restarted from\nthe same state at a later time.  When the virsh "
    "'start'\ncommand is next run for the domain, it will automatically\nbe started from this saved state.",
    (
        _DOMAIN,
        _BYPASS_CACHE,
        Option("running", "set domain to be running on next start"),
        Option("paused", "set domain to be paused on next start"),
    ),
    "lifecycle_commands:run_managedsave",
)
DOMID = Command(
    "domid",
    "convert a domain name or UUID to domain id",
    "",
    (Option("domain", "domain name or uuid", Kind.TEXT, required=True),),
    "monitor_commands:run_domid",
)
DOMNAME = Command(
    "domname",
    "convert a domain id or UUID to domain name",
    "",
    (Option("domain", "domain id or uuid", Kind.TEXT, required=True),),
    "monitor_commands:run_domname",
)
DOMUUID = Command(
    "domuuid",
    "convert a domain name or id to domain UUID",
    "",
    (Option("domain", "domain id or name", Kind.TEXT, required=True),),
    "monitor_commands:run_domuuid",
)
DOMSTATE = Command(
    "domstate",
    "domain state",
    "Returns state about a domain.",
    (_DOMAIN, Option("reason", "also print reason for the state")),
    "monitor_commands:run_domstate",
)
DOMBLKSTAT = Command(
    "domblkstat",
    "get device block stats for a domain",
    "Get device block stats for a running domain. See man page or use --human for explanation of fields",
    (
        _DOMAIN,
        Option("device", "block device", Kind.TEXT),
        Option("human", "print a more human readable output"),
    ),
    "monitor_commands:run_domblkstat",
)
DETACH_DISK = Command(
    "detach-disk",
    "detach disk device",
    "Detach disk device.",
    (
        _DOMAIN,
        Option("target", "target of disk device", Kind.TEXT, required=True),
        Option("persistent", "make live change persistent"),
        Option("config", "affect next boot"),
        Option("live", "affect running domain"),
        Option("current", "affect current domain"),
        Option("print-xml", "print XML document rather than detach the disk"),
    ),
    "domain_commands:run_detach_disk",
)
BLOCKCOPY = Command(
    "blockcopy",
    "Start a block copy operation.",
    "Copy a disk backing image chain to dest.",
    (
        _DOMAIN,
        Option("path", "fully-qualified path of source disk", Kind.TEXT, required=True),
        Option("dest", "path of the copy to create", Kind.TEXT),
        Option("bandwidth", "bandwidth limit in MiB/s", Kind.NUMBER),
        Option("shallow", "make the copy share a backing chain"),
        Option("reuse-external", "reuse existing destination"),
        Option("raw", stands_for=("format", "raw")),
        Option("blockdev", "copy destination is block device instead of regular file"),
        Option("wait", "wait for job to reach mirroring phase"),
        Option("verbose", "with --wait, display the progress"),
        Option("timeout", "implies --wait, abort if copy exceeds timeout (in seconds)", Kind.NUMBER),
        Option("pivot", "implies --wait, pivot when mirroring starts"),
        Option("finish", "implies --wait, quit when mirroring starts"),
        Option("async", "with --wait, don't wait for cancel to finish"),
        Option("xml", "filename containing XML description of the copy destination", Kind.TEXT),
        Option("format", "format of the destination file", Kind.TEXT),
        Option("granularity", "power-of-two granularity to use during the copy", Kind.NUMBER),
        Option("buf-size", "maximum amount of in-flight data during the copy", Kind.NUMBER),
        Option("bytes", "the bandwidth limit is in bytes/s rather than MiB/s"),
        Option("transient-job", "the copy job is not persisted if VM is turned off"),
        Option(
            "synchronous-writes",
            "the copy job forces guest writes to be synchronously written to the destination",
        ),
        Option("dest-is-zero", "the destination image is already zeroed; not all of it need be written"),
        Option("print-xml", "print the XML used to start the copy job instead of starting the job"),
        Option(
            "bitmap",
            "with --reuse-external, update an earlier copy by what this persistent bitmap marks",
            Kind.TEXT,
            by_name_only=True,
        ),
    ),
    "blockcopy_command:run_blockcopy",
)
BLOCKCOMMIT = Command(
    "blockcommit",
    "Start a block commit operation.",
    "Commit changes from a snapshot down to its backing image.",
    (
        _DOMAIN,
        Option("path", "fully-qualified path of disk", Kind.TEXT, required=True),
        Option("bandwidth", "bandwidth limit in MiB/s", Kind.NUMBER),
        Option("base", "path of base file to commit into (default bottom of chain)", Kind.TEXT),
        Option("shallow", "use backing file of top as base"),
        Option("top", "path of top file to commit from (default top of chain)", Kind.TEXT),
        Option("active", "trigger two-stage active commit of top file"),
        Option("delete", "delete files that were successfully committed"),
        Option("wait", "wait for job to complete (with --active, wait for job to sync)"),
        Option("verbose", "with --wait, display the progress"),
        Option("timeout", "implies --wait, abort if copy exceeds timeout (in seconds)", Kind.NUMBER),
        Option("pivot", "implies --active --wait, pivot when commit is synced"),
        Option("keep-overlay", "implies --active --wait, quit when commit is synced"),
        Option("async", "with --wait, don't wait for cancel to finish"),
        Option("keep-relative", "keep the backing chain relatively referenced"),
        Option("bytes", "the bandwidth limit is in bytes/s rather than MiB/s"),
    ),
    "blockmerge_commands:run_blockcommit",
)
BLOCKPULL = Command(
    "blockpull",
    "Populate a disk from its backing image.",
    "Populate a disk from its backing image.",
    (
        _DOMAIN,
        Option("path", "fully-qualified path of disk", Kind.TEXT, required=True),
        Option("bandwidth", "bandwidth limit in MiB/s", Kind.NUMBER),
        Option("base", "path of backing file in chain for a partial pull", Kind.TEXT),
        Option("wait", "wait for job to finish"),
        Option("verbose", "with --wait, display the progress"),
        Option("timeout", "with --wait, abort if pull exceeds timeout (in seconds)", Kind.NUMBER),
        Option("async", "with --wait, don't wait for cancel to finish"),
        Option("keep-relative", "keep the backing chain relatively referenced"),
        Option("bytes", "the bandwidth limit is in bytes/s rather than MiB/s"),
    ),
    "blockmerge_commands:run_blockpull",
)
BLOCKJOB = Command(
    "blockjob",
    "Manage active block operations",
    "Query, adjust speed, or cancel active block operations.",
    (
        _DOMAIN,
        Option("path", "fully-qualified path of disk", Kind.TEXT, required=True),
        Option("abort", "abort the active job on the specified disk"),
        Option("async", "implies --abort; request but don't wait for job end"),
        Option("pivot", "implies --abort; conclude and pivot a copy or commit job"),
        Option("info", "get active job information for the specified disk"),
        Option("bytes", "get/set bandwidth in bytes rather than MiB/s"),
        Option("raw", "implies --info; output details rather than human summary"),
        Option("bandwidth", "set the bandwidth limit in MiB/s", Kind.NUMBER),
    ),
    "block_commands:run_blockjob",
)
_DISK = Option("path", "fully-qualified path of disk", Kind.TEXT, required=True)
_BITMAP_NAME = Option("bitmap", "name of the bitmap", Kind.TEXT, required=True)
BITMAP_LIST = Command(
    "bitmap-list",
    "list persistent bitmaps of a disk",
    "Returns list of the persistent bitmaps of a disk's active image.",
    (_DOMAIN, _DISK, Option("name", "list bitmap names only")),
    "bitmap_commands:run_bitmap_list",
)
BITMAP_ADD = Command(
    "bitmap-add",
    "add a persistent bitmap to a disk",
    "Add a persistent bitmap, which records writes from now on, to the image of a shut-off domain's disk.",
    (
        _DOMAIN,
        _DISK,
        _BITMAP_NAME,
        Option("granularity", "bytes that one bit stands for, as scaled integer (default 64 KiB)", Kind.NUMBER),
        Option("disabled", "do not record writes in it"),
    ),
    "bitmap_commands:run_bitmap_add",
)
BITMAP_REMOVE = Command(
    "bitmap-remove",
    "remove a persistent bitmap from a disk",
    "Remove a persistent bitmap from the image of a shut-off domain's disk.",
    (_DOMAIN, _DISK, _BITMAP_NAME),
    "bitmap_commands:run_bitmap_remove",
)
BITMAP_CLEAR = Command(
    "bitmap-clear",
    "clear a persistent bitmap of a disk",
    "Let a persistent bitmap of a shut-off domain's disk mark nothing, once the copy that used it is safe.",
    (_DOMAIN, _DISK, _BITMAP_NAME),
    "bitmap_commands:run_bitmap_clear",
)
BLOCKRESIZE = Command(
    "blockresize",
    "Resize block device of domain.",
    "Resize block device of domain.",
    (
        _DOMAIN,
        Option("path", "Fully-qualified path of block device", Kind.TEXT, required=True),
        Option("size", "New size of the block device, as scaled integer (default KiB)", Kind.NUMBER, required=True),
    ),
    "block_commands:run_blockresize",
)
DOMBLKINFO = Command(
    "domblkinfo",
    "domain block device size information",
    "Get block device size info for a domain.",
    (
        _DOMAIN,
        Option("device", "block device", Kind.TEXT),
        Option("human", "Human readable output"),
        Option("all", "display all block devices info"),
    ),
    "monitor_commands:run_domblkinfo",
)
DOMBLKLIST = Command(
    "domblklist",
    "list all domain blocks",
    "Get the summary of block devices for a domain.",
    (
        _DOMAIN,
        Option("inactive", "get inactive rather than running configuration"),
        Option("details", "additionally display the type and device value"),
    ),
    "monitor_commands:run_domblklist",
)
LIST = Command(
    "list",
    "list domains",
    "Returns list of domains.",
    (
        Option("inactive", "list inactive domains"),
        Option("all", "list inactive & active domains"),
        Option("transient", "list transient domains"),
        Option("persistent", "list persistent domains"),
        Option("with-snapshot", "list domains with existing snapshot"),
        Option("without-snapshot", "list domains without a snapshot"),
        Option("with-checkpoint", "list domains with existing checkpoint"),
        Option("without-checkpoint", "list domains without a checkpoint"),
        Option("state-running", "list domains in running state"),
        Option("state-paused", "list domains in paused state"),
        Option("state-shutoff", "list domains in shutoff state"),
        Option("state-other", "list domains in other states"),
        Option("autostart", "list domains with autostart enabled"),
        Option("no-autostart", "list domains with autostart disabled"),
        Option("with-managed-save", "list domains with managed save state"),
        Option("without-managed-save", "list domains without managed save"),
        Option("uuid", "list uuid's only"),
        Option("name", "list domain names only"),
        Option("id", "list domain IDs only"),
        Option("table", "list table (default)"),
    ),
    "monitor_commands:run_list",
)
EVENT = Command(
    "event",
    "Domain Events",
    "List event types, or wait for domain events to occur",
    (
        Option("domain", "filter by domain name, id or uuid", Kind.TEXT),
        Option("event", "which event type to wait for", Kind.TEXT),
        Option("all", "wait for all events instead of just one type"),
        Option("loop", "loop until timeout or interrupt, rather than one-shot"),
        Option("timeout", "timeout seconds", Kind.NUMBER),
        Option("list", "list valid event types"),
        Option("timestamp", "show timestamp for each printed event"),
    ),
    "event_command:run_event",
)
SNAPSHOT_CREATE_AS = Command(
    "snapshot-create-as",
    "Create a snapshot from a set of args",
    "Create a snapshot (disk and RAM) from arguments",
    (
        _DOMAIN,
        Option("name", "name of snapshot", Kind.TEXT),
        Option("description", "description of snapshot", Kind.TEXT),
        Option("print-xml", "print XML document rather than create"),
        Option("no-metadata", "take snapshot but create no metadata"),
        Option("halt", "halt domain after snapshot is created"),
        Option("disk-only", "capture disk state but not vm state"),
        Option("reuse-external", "reuse any existing external files"),
        Option("quiesce", "quiesce guest's file systems"),
        Option("atomic", "require atomic operation"),
        Option("live", "take a live snapshot"),
        Option("validate", "validate the XML against the schema"),
        Option("memspec", "memory attributes: [file=]name[,snapshot=type]", Kind.TEXT, by_name_only=True),
        Option(
            "diskspec",
            "disk attributes: disk[,snapshot=type][,driver=type][,stype=type][,file=name]",
            Kind.LIST,
        ),
    ),
    "snapshot_commands:run_snapshot_create_as",
)
_JOB = Option("job", "the job's id", Kind.TEXT, required=True)
JOBS = Command(
    "jobs",
    "list block jobs",
    "List the block jobs that go on, on every connection, newest first.",
    (
        Option("domain", "jobs of this domain alone: name, id or uuid", Kind.TEXT),
        Option("all", "ended jobs too, with their reasons"),
        Option("id", "list the jobs' ids only"),
    ),
    "job_commands:run_jobs",
)
ATTACH = Command(
    "attach",
    "follow a block job",
    "Show a block job's progress until it is ready or has ended. Ctrl-C leaves the job alone.",
    (_JOB, Option("timeout", "leave the job alone after these seconds", Kind.NUMBER)),
    "job_commands:run_attach",
)
MAP = Command(
    "map",
    "draw what a block job has done of its disk",
    "Draw a block job's disk in cells: done, copying, to do, zero, dirty again, failed.\n"
    "On a terminal it is drawn anew until the job has ended, or Ctrl-C.",
    (
        _JOB,
        Option("once", "draw it once"),
        Option("cells", "into how many cells the disk is divided, at most", Kind.NUMBER),
        Option("svg", "write it into this file as an SVG picture instead", Kind.TEXT, by_name_only=True),
        Option("ddrescue", "write it into this file as a map file of GNU ddrescue", Kind.TEXT, by_name_only=True),
    ),
    "job_commands:run_map",
)
TOP = Command(
    "top",
    "show all block jobs live",
    "Show the block jobs that go on: how much is done, rate, time left, and what the guest wrote over again.\n"
    "On a terminal until Ctrl-C; elsewhere once.",
    (
        Option("domain", "jobs of this domain alone: name, id or uuid", Kind.TEXT),
        Option("count", "show them so many times, a second apart", Kind.NUMBER, by_name_only=True),
    ),
    "job_commands:run_top",
)
COMPLETION = Command(
    "completion",
    "print a completion script",
    "Print a script that completes command lines: of bash, or of zsh.",
    (Option("shell", "bash or zsh", Kind.TEXT, required=True),),
    "",
)
_HELP_SUMMARY = "Prints global help, command specific help, or help for a group of related commands"
HELP = Command(
    "help",
    "print help",
    "Prints global help, command specific help, or help for a\ngroup of related commands",
    (Option("command", _HELP_SUMMARY, Kind.TEXT),),
    "",
)

GROUPS = (
    Group(
        "Domain Management",
        "domain",
        (
            BLOCKCOMMIT,
            BLOCKCOPY,
            BLOCKJOB,
            BLOCKPULL,
            BLOCKRESIZE,
            CREATE,
            DEFINE,
            DESTROY,
            DETACH_DISK,
            DOMID,
            DOMNAME,
            DOMUUID,
            DUMPXML,
            MANAGEDSAVE,
            RESUME,
            SAVE,
            SHUTDOWN,
            START,
            SUSPEND,
            UNDEFINE,
        ),
    ),
    Group("Domain Monitoring", "monitor", (DOMBLKINFO, DOMBLKLIST, DOMBLKSTAT, DOMSTATE, LIST)),
    Group("Domain Events", "events", (EVENT,)),
    Group("Snapshot", "snapshot", (SNAPSHOT_CREATE_AS,)),
    Group("Bitmap", "bitmap", (BITMAP_ADD, BITMAP_CLEAR, BITMAP_LIST, BITMAP_REMOVE)),
    Group("Block Job", "job", (ATTACH, JOBS, MAP, TOP)),
    Group("virtblock itself", "virtblock", (COMPLETION, HELP)),
)
COMMANDS = {command.name: command for group in GROUPS for command in group.commands}
