-- SPDX-License-Identifier: MIT
-- A worker process that lies to its pool: run by spec/process_pool_crash_spec.lua as the `command` of a
-- pool. It takes the first job and then does what its argument says, by writing into the link's shared
-- memory, which is open as descriptor 4 (csrc/process_link.c).

local lie, path = ...

local SLOTS, TO_POOL, TO_POOL_BYTES = 576, 320, 4096 + 1024 * 1024
local TO_WORKER_READ, TO_WORKER_BYTES = 128, 4096
local SENT, STARTED = 1, 2

local memory = assert(io.open("/proc/self/fd/4", "r+b"))
memory:setvbuf "no"

local function peek(offset, format)
  memory:seek("set", offset)
  return (string.unpack(format, memory:read(string.packsize(format))))
end

local function poke(offset, bytes)
  memory:seek("set", offset)
  memory:write(bytes)
end

local function bell()
  os.execute "printf '!' >&3"
end

local function send(bytes)
  poke(TO_POOL_BYTES, bytes)
  poke(TO_POOL, string.pack("I8", #bytes))
  bell()
end

local function frame(fields)
  return string.pack("<c3 B B B I2 I4 I4 I8 I8", fields.magic or "\xC3qF", fields.version or 1,
    fields.kind or 6, fields.detail or 0, 0, fields.slot or 0, 0, fields.id or 1, fields.size or 0)
end

if lie == "mute" then
  os.exit(3)
elseif lie == "other_version" then
  poke(8, string.pack("I4", 2))
  bell()
  os.execute "sleep 20"
end

while peek(SLOTS, "I4") ~= SENT do end
poke(SLOTS, string.pack("I4", STARTED))
local id = 1

local LIES = {
  magic = function() send(("GET / HTTP/1.1\r\n"):rep(4)) end,
  version = function() send(frame { version = 9 }) end,
  kind = function() send(frame { kind = 99 }) end,
  pools_own = function() send(frame { kind = 2 }) end,
  huge = function() send(frame { size = 1 << 50 }) end,
  nobody = function() send(frame { id = 12345, size = 0 }) end,
  slot = function() send(frame { slot = 4000000000 }) end,
  outcome = function() send(frame { id = id, detail = 77 }) end,
  inline = function() send(frame { id = id, detail = 0x80, size = 8 } .. ("\xFF"):rep(8)) end,
  inline_string = function() -- four strings that begin inside of the bytes and end outside
    local scalar = string.pack("I2 I2 I4 B c7", 39, 2, 0, 5, "")
    local inline = scalar:rep(4) .. ("x"):rep(40) .. "\4       "
    send(frame { id = id, detail = 0x80, size = #inline } .. inline)
  end,
  empty = function() send(frame { id = id }) end,
  truncated = function()
    send(frame { id = id, size = 100000 } .. "only the beginning")
    os.exit(0)
  end,
  garbage = function() os.execute "printf 'hello, pool' >&3" end,
  positions = function()
    poke(TO_POOL, string.pack("I8", 1 << 60))
    bell()
  end,
  positions_sent = function() -- where the worker says it has read to
    poke(TO_WORKER_READ, string.pack("I8", 1 << 60))
    bell()
  end,
  everything = function()
    poke(64, ("\xFF"):rep(4096))
    bell()
  end,
}
if lie == "record" then
  local size = 32 + peek(TO_WORKER_BYTES + 24, "I8") -- header and body of the first frame
  memory:seek("set", TO_WORKER_BYTES)
  local file <close> = assert(io.open(path, "wb"))
  file:write(memory:read(size))
  os.exit(0)
end
LIES[lie]()
os.execute "sleep 20"
