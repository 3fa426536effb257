-- SPDX-License-Identifier: MIT
--
-- Names and addresses of hosts. All of it is in C (csrc/dns.c).

local core = require "concur.core"

---Names and addresses of hosts, without blocking the loop.
---@class concur.dns
local dns = {}

---The addresses of a host: a list, in the order in which they should be tried, of
---`{address = "127.0.0.1", family = "inet", port = 80, type = "tcp"}`.
---
---Numeric addresses, and `localhost` (127.0.0.1, then ::1), are answered at once when the service is
---a number. Everything else is asked of the system (hosts file, name servers) on a thread of its own.
---Cancelled: the task goes on at once.
---@async
---@param host? string a name or a numeric address; nil: this machine's loopback addresses, or with
---  `passive` the addresses to listen on everywhere
---@param service? integer|string a port or a service's name, "http"; nil: the port is 0
---@param opts? table `family`: "inet", "inet6" or "any" (the default); `type`: "tcp" (the default) or
---  "udp"; `passive`: true for listening; `numeric`: true to look nothing up
---@return table[]? addresses at least one
---@return concur.Error? error `OSError`; `code` "EAI_NONAME": there is no such host or address,
---  "EAI_AGAIN": no answer, "EAI_SERVICE": no such service
dns.resolve = core.resolve

---The name of an address.
---@async
---@param address string numeric: "127.0.0.1", "::1", "fe80::1%eth0"
---@return string? name
---@return concur.Error? error `OSError`; `code` "EAI_NONAME": it has none, "EINVAL": this is no address
dns.reverse = core.reverse

return dns
