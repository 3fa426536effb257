-- SPDX-License-Identifier: MIT
-- The workload of a TCP server that sends back what it gets: harness/echo_client.c is the client.
-- A server's function gets the port and serves until it is killed.

---@param connections integer
---@param size integer bytes of a message; one is under way on each connection at any time
---@param at_most number goal: so many times the limit
return function(connections, size, at_most)
  local amount = size >= 1024 and ("%d KiB"):format(size // 1024) or ("%d B"):format(size)
  return {
    title = ("TCP echo, %d x %s"):format(connections, amount),
    unit = "message",
    server = { connections = connections, size = size },
    goals = { { "limit", at_most = at_most } },

    concur = function(concur)
      return function(port)
        assert(concur.net.serve(function(stream)
          while true do
            local data = stream:read_some()
            if not data then
              return
            end
            stream:write(data)
          end
        end, "127.0.0.1", port))
      end
    end,

    -- libuv in C: one buffer for all, what is read is written at once.
    limit = function(native)
      return native.echo
    end,

    -- A coroutine for each connection, resumed from the callbacks.
    luv = function(uv)
      local function handle(client)
        local co = coroutine.running()
        local chunks, waiting = {}, false
        client:read_start(function(_, data)
          if waiting then
            waiting = false
            assert(coroutine.resume(co, data))
          else
            chunks[#chunks + 1] = data or false
          end
        end)
        while true do
          local data
          if #chunks > 0 then
            data = table.remove(chunks, 1)
          else
            waiting = true
            data = coroutine.yield()
          end
          if not data then
            break
          end
          client:write(data, function()
            assert(coroutine.resume(co))
          end)
          coroutine.yield()
        end
        client:close()
      end
      return function(port)
        local server = uv.new_tcp()
        assert(server:bind("127.0.0.1", port))
        assert(server:listen(1024, function()
          local client = uv.new_tcp()
          server:accept(client)
          client:nodelay(true)
          coroutine.wrap(handle)(client)
        end))
        uv.run()
      end
    end,

    cqueues = function(_, controller)
      local socket = require "cqueues.socket"
      return function(port)
        local server = socket.listen { host = "127.0.0.1", port = port, nodelay = true }
        for client in server:clients() do
          client:setmode("bn", "bn")
          controller:wrap(function()
            while true do
              local data = client:xread(-65536)
              if not data then
                break
              end
              client:xwrite(data)
            end
            client:close()
          end)
        end
      end
    end,

    -- Streams: what a program would use.
    python = [[
import asyncio

async def handle(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def serve(port):
    server = await asyncio.start_server(handle, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()
]],

    node = [[
const net = require('net');

function serve(port) {
  net.createServer(socket => {
    socket.setNoDelay(true);
    socket.on('data', data => socket.write(data));
    socket.on('error', () => {});
  }).listen({ port, host: '127.0.0.1', backlog: 1024 });
}
]],
  }
end
