-- SPDX-License-Identifier: MIT
-- The echo server on cqueues: a coroutine for each connection.

local cqueues = require "cqueues"
local socket = require "cqueues.socket"

local queue = cqueues.new()
local server = socket.listen { host = "127.0.0.1", port = 0, nodelay = true }

queue:wrap(function()
  for peer in server:clients() do
    peer:setmode("bn", "bn")
    queue:wrap(function()
      pcall(function() -- a reset raises
        while true do
          local bytes = peer:xread(-65536)
          if not bytes then
            return
          end
          peer:xwrite(bytes)
        end
      end)
      peer:close()
    end)
  end
end)
assert(server:listen())
local _, _, port = server:localname()
io.stdout:write(port, "\n"):flush()
assert(queue:loop())
