-- SPDX-License-Identifier: MIT
-- Lua calls a finalizer like a function. When memory is too short for that call it drops the
-- finalizer, and the object is collected without. What C still knew of it (libuv's handles, the
-- process, the list of receivers of signals) then wrote to freed memory. Here no finalizer of concur
-- does anything: each kind of object is used, forgotten, collected, and then something happens to it.
-- What only a finalizer would have ended may last until the state ends, and not longer.

local support = require "spec.support"

-- Bodies; `forget()` collects what is out of scope and lets the loop turn.
local cases = {
  ["streams with bytes to read"] = [[
    do
      local a, b = concur.net.socketpair()
      a:write "hello"
      peer = b
    end
    forget()
    assert(peer:read(5) == "hello")
    do
      local a, b = concur.net.socketpair()
      concur.move_on_after(0.001, a.read, a)
      peer = b
    end
    forget()
    peer:write "nobody reads this"
    forget()
    peer = nil
  ]],
  ["streams that send"] = [[
    do
      local a, b = concur.net.socketpair()
      concur.move_on_after(0.001, a.write, a, ("x"):rep(1 << 20), "y")
      peer = b
    end
    forget()
    assert(peer:read_some())
    peer:close()
    forget()
    peer = nil
  ]],
  ["streams that are closed"] = [[
    do
      local a, b = concur.net.socketpair()
      a:close()
    end
    forget()
  ]],
  ["connections that are not there yet"] = [[
    local listener = concur.net.listen("127.0.0.1", 0)
    do
      local _, port = listener:address()
      concur.spawn(concur.net.connect, "127.0.0.1", port):cancel()
      concur.sleep(0)
    end
    forget()
    listener:close()
  ]],
  ["listeners"] = [[
    do
      local listener = concur.net.listen("127.0.0.1", 0)
      concur.move_on_after(0.001, listener.accept, listener)
      _, port = listener:address()
    end
    forget()
    local stream = concur.net.connect("127.0.0.1", port) -- nil, when the finalizer has closed it
    if stream then
      stream:close()
    end
    forget()
  ]],
  ["sockets for datagrams"] = [[
    do
      local socket = concur.net.udp("127.0.0.1", 0)
      concur.move_on_after(0.001, socket.recv_from, socket)
      concur.move_on_after(0.001, concur.select, { socket:receiving() })
      _, port = socket:address()
    end
    forget()
    local other <close> = concur.net.udp("127.0.0.1", 0)
    assert(other:send_to("hello", "127.0.0.1", port))
    forget()
  ]],
  ["child processes"] = [[
    do
      local child = concur.process.spawn { "sh", "-c", "read line", stdin = "pipe" }
      concur.move_on_after(0.001, child.wait, child)
      peer = child.stdin
      concur.process.spawn { "true" }
    end
    forget()
    peer:close()
    concur.sleep(0.02)
  ]],
  ["receivers of signals"] = [[
    do
      local receiver = concur.signal.receive("SIGWINCH", "SIGCONT")
      concur.signal.raise "SIGWINCH"
      assert(receiver() == "SIGWINCH")
      concur.move_on_after(0.001, receiver)
      concur.move_on_after(0.001, concur.select, { receiver:receiving() })
    end
    forget()
    concur.signal.raise "SIGWINCH"
    forget()
    local another <close> = concur.signal.receive "SIGCONT"
    concur.signal.raise "SIGCONT"
    assert(another() == "SIGCONT")
  ]],
  ["lookups"] = [[
    concur.move_on_after(0.001, concur.dns.resolve, "localhost.invalid", 80)
    local co
    local task = concur.spawn(function()
      co = coroutine.running()
      concur.dns.reverse "127.0.0.1"
    end)
    concur.sleep(0)
    coroutine.close(co) -- a stranger does this
    co = nil
    forget()
    task:cancel()
    pcall(task.result, task)
    forget()
  ]],
  ["arms of a select whose coroutine a stranger closed"] = [[
    local queue, co = concur.Queue()
    local function start()
      local task = concur.spawn(function()
        co = coroutine.running()
        concur.select { queue:getting(), concur.Queue(1):getting(), concur.after(0.002),
          concur.Event():waiting(), concur.Channel(1):receiving(), concur.Future() }
      end)
      concur.sleep(0)
      coroutine.close(co)
      co = nil
      forget()
      return task
    end
    local first, second, third = start(), start(), start()
    queue:put(1)
    second:cancel()
    concur.wait { first, second, third }
    assert(first:state() == "failed" and second:state() == "failed" and third:state() == "failed")
    pcall(first.result, first)
    pcall(second.result, second)
    pcall(third.result, third)
  ]],
  ["locks whose waiters a stranger closed"] = [[
    local first, second
    local holder = concur.spawn(function()
      do
        local lock = concur.Lock()
        lock:acquire()
        first = concur.spawn(function()
          second = coroutine.running()
          lock:acquire()
        end)
        concur.sleep(0)
      end
      coroutine.close(second)
      second = nil
      forget()
      local another = concur.Lock()
      another:acquire()
      concur.spawn(pcall, another.acquire, another)
      concur.sleep(0)
    end)
    concur.wait { holder }
    first:cancel()
    pcall(first.result, first)
  ]],
  ["callbacks of futures that a finalizer settles"] = [[
    do
      local future = concur.Future()
      future:add_done_callback(print)
      setmetatable({}, { __gc = function() future:set_result(1) end })
    end
    forget()
  ]],
  ["channels, buffers and pools"] = [[
    do
      local pool = concur.ThreadPoolExecutor(1)
      pool:options({ name = "x" }):run("math.abs", 1)
      pool:submit("math.abs", 1)
      pool:run(function(buffer) return buffer[1] end, concur.SharedBuffer(64))
      local channel = concur.Channel(1)
      channel:send "x"
      concur.select { channel:receiving() }
      concur.move_on_after(0.001, concur.select, { channel:receiving() })
      channel:send "y"
      concur.move_on_after(0.001, concur.select, { channel:sending "z" })
    end
    forget()
  ]],
  ["watches, timers and errors of tasks"] = [[
    do
      local napper = concur.spawn(concur.sleep, 0.001)
      for _ in concur.as_completed { concur.Future(), napper } do break end
      concur.get_event_loop():call_later(5, print)
      concur.spawn(error, "nobody asks for this")
      concur.sleep(0)
    end
    forget()
  ]],
}

-- Argument: whether the finalizers do nothing.
local FRAME = [[
  local concur = require "concur"
  local KEPT = { ["FILE*"] = true, ["concur.TransferState"] = true }
  for _, class in pairs(debug.getregistry()) do
    local finalized = type(class) == "table" and rawget(class, "__gc")
    if %s and finalized and not KEPT[rawget(class, "__name")] then
      rawset(class, "__gc", function() end)
    end
  end
  local function forget()
    collectgarbage()
    concur.sleep(0.001)
    collectgarbage()
    concur.sleep(0)
  end
  local runner = concur.Runner { on_error = function() end }
  runner:run(function()
    local peer, port, _
    %s
  end)
]]

describe("objects collected without their finalizers:", function()
  for name, body in pairs(cases) do
    it(name, function()
      local directory = support.tmpdir()
      for _, dropped in ipairs { "true", "false" } do
        support.write_file(directory .. "/" .. dropped .. ".lua", FRAME:format(dropped, body))
      end
      support.check_lua(([[
        local support = require "spec.support"
        local function counts()
          return testhost.blocks(), support.fds(), support.threads()
        end
        local function run(path)
          local _, ok, message = testhost.run(support.read_file(path), 1 << 40, 1, " malloc ")
          assert(ok, message)
        end
        run "%s/false.lua" -- what a process keeps comes first
        local blocks, fds, threads = counts()
        run "%s/true.lua"
        local b, f, t = counts()
        assert(b == blocks and f == fds and t == threads, ("%%d blocks, %%d descriptors, "
          .. "%%d threads left"):format(b - blocks, f - fds, t - threads))
      ]]):format(directory, directory), {
        lua = support.host,
        env = { LUA_CPATH = support.build .. "/faults/?.so;" .. support.build .. "/?.so;;" },
      })
    end)
  end
end)
