-- SPDX-License-Identifier: MIT
-- TCP servers that send back what they get, on one connection, on 50 and on 1,000, with messages of
-- 64 bytes, 1 KiB and 16 KiB. harness/echo_client.c is the client. A server's function gets the port
-- and serves until it is killed; each turns Nagle's algorithm off, or has it off.

local handle_connection = require "harness.echo"

-- How much of the speed of libuv in C is wanted with messages of this size.
local function share_of_limit(size)
  return size < 16384 and 0.90 or 0.80
end

---@param connections integer
---@param size integer bytes of a message; one is under way on each connection at any time
local function row(connections, size)
  local kib = size // 1024
  return {
    name = ("echo_%d_%s"):format(connections, kib > 0 and kib .. "k" or size),
    title = ("TCP echo, %d x %s"):format(connections, kib > 0 and kib .. " KiB" or size .. " B"),
    unit = "message",
    server = { connections = connections, size = size },
    -- On one connection the processor waits most of the time, whoever the server is.
    goals = {
      { "limit", faster = share_of_limit(size) },
      connections > 1 and { "peers", faster = 1 } or nil,
    },

    concur = function(concur)
      return function(port)
        assert(concur.net.serve(handle_connection, "127.0.0.1", port))
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
        local server = socket.listen { host = "127.0.0.1", port = port }
        while true do
          local client = server:accept { nodelay = true } -- what the listener has does not count
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

    -- Streams: what most programs use.
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

    -- A protocol: callbacks without a task, the fastest that Python has.
    python_protocol = [[
import asyncio

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

async def serve(port):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", port, backlog=1024)
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

local rows = {}
for _, connections in ipairs { 1, 50, 1000 } do
  for _, size in ipairs { 64, 1024, 16384 } do
    rows[#rows + 1] = row(connections, size)
  end
end
return rows
