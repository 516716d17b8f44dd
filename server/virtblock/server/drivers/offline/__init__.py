# SPDX-License-Identifier: Apache-2.0
"""Block jobs on the disks of shut-off domains, done by the engine: what all drivers share that have such domains."""
