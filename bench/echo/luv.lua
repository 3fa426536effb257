-- SPDX-License-Identifier: MIT
-- The echo server on luv: its callbacks, and try_write as in the limit.

local uv = require "luv"

local server = uv.new_tcp()
server:bind("127.0.0.1", 0)
server:listen(1024, function()
  local peer = uv.new_tcp()
  server:accept(peer)
  peer:nodelay(true)
  peer:read_start(function(_, bytes)
    if not bytes then
      peer:close()
      return
    end
    local sent = peer:try_write(bytes) or 0
    if sent < #bytes then
      peer:write(bytes:sub(sent + 1))
    end
  end)
end)
io.stdout:write(server:getsockname().port, "\n"):flush()
uv.run()
