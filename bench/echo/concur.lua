-- SPDX-License-Identifier: MIT
-- The echo server on concur's streams.

local net = require "concur.net"

local function echo(stream)
  while true do
    local bytes = stream:read_some()
    if not bytes then
      return
    end
    stream:write(bytes)
  end
end

require("concur").run(net.serve, echo, "127.0.0.1", 0, {
  on_listen = function(listener)
    io.stdout:write(select(2, listener:address()), "\n"):flush()
  end,
})
