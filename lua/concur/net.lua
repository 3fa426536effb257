-- SPDX-License-Identifier: MIT
--
-- The network: TCP and Unix sockets as streams.
--
-- The C core makes the streams; what is said with tasks and scopes (several addresses at once,
-- servers) is written here. docs/design/streams.md tells how it works.

local core = require "concur.core"

local net = {}

---Two streams that are connected to each other (Unix sockets without a name). Never suspends.
---@return concur.Stream? one
---@return concur.Stream|concur.Error other or an `OSError`
function net.socketpair()
  return core.socketpair()
end

---A stream on a descriptor that is there already: a pipe, a TCP or a Unix socket that is connected.
---When this succeeded the descriptor belongs to the stream; it is set to non-blocking. Never
---suspends.
---@param fd integer
---@return concur.Stream?
---@return concur.Error? error `OSError`: not a pipe or stream socket, not open
function net.from_fd(fd)
  return core.stream_from_fd(fd)
end

return net
