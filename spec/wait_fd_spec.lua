-- SPDX-License-Identifier: MIT
-- wait_fd: descriptors that other libraries read and write.

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local socket = require "socket"
local support = require "spec.support"
local testing = require "concur.testing"
local virtual = require "spec.support.virtual"

local wait_fd = require("concur.net").wait_fd

-- Two LuaSocket sockets that are connected to each other; closed at the end of the block.
local function socket_pair()
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  local here = assert(socket.tcp())
  assert(here:connect("127.0.0.1", port))
  local there = assert(server:accept())
  server:close()
  assert(here:setoption("tcp-nodelay", true))
  assert(there:setoption("tcp-nodelay", true))
  local closer = expect.guard(function()
    here:close()
    there:close()
  end)
  return here, there, closer
end

local function seconds(n)
  return n * support.time_scale
end

-- What fills a socket until it takes no more.
local function fill(sock)
  sock:settimeout(0)
  local chunk = ("x"):rep(65536)
  repeat
    local sent = sock:send(chunk)
  until not sent
end

describe("wait_fd", function()
  it("says at once what is there", function()
    local here, there, _ <close> = socket_pair()
    assert.equal("w", wait_fd(here, "w"))
    assert.equal("w", wait_fd(here, "rw"))
    there:send "x"
    assert.equal("r", wait_fd(here))
    assert.equal("r", wait_fd(here, "r"))
    assert.equal("rw", wait_fd(here, "rw"))
  end)

  it("waits until there is something to read, while other tasks run", function()
    local here, there, _ <close> = socket_pair()
    concur.run(function()
      local order = {}
      local reader = concur.spawn(function()
        order[#order + 1] = "waits"
        assert.equal("r", wait_fd(here, "r"))
        order[#order + 1] = here:receive(3)
      end)
      concur.sleep(0.01)
      order[#order + 1] = "another task"
      there:send "abc"
      reader:result()
      assert.same({ "waits", "another task", "abc" }, order)
    end)
  end)

  it("waits until there is room to write", function()
    local here, there, _ <close> = socket_pair()
    fill(here)
    concur.run(function()
      local writer = concur.spawn(wait_fd, here, "w")
      concur.sleep(0.01)
      assert.is_false(writer:done())
      there:settimeout(0)
      while not writer:done() do
        there:receive(65536)
        concur.checkpoint()
      end
      assert.equal("w", writer:result())
    end)
  end)

  it("knows when a connection that is being made is there, and when it was refused", function()
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local client = socket.tcp()
    client:settimeout(0)
    client:connect("127.0.0.1", port)
    assert.equal("w", wait_fd(client, "w", seconds(5)))
    assert.equal(1, client:connect("127.0.0.1", port) or 1)
    client:close()
    server:close()
    local late = socket.tcp()
    late:settimeout(0)
    late:connect("127.0.0.1", port)
    assert.equal("rw", wait_fd(late, "rw", seconds(5)))
    late:close()
  end)

  it("takes the end of what comes as something to read", function()
    local here, there, _ <close> = socket_pair()
    concur.run(function()
      local reader = concur.spawn(wait_fd, here)
      concur.sleep(0)
      there:close()
      assert.equal("r", reader:result())
      assert.same({ nil, "closed", "" }, { here:receive(1) })
    end)
  end)

  it("works at top level", function()
    local here, there, _ <close> = socket_pair()
    concur.get_event_loop():call_later(0.005, there.send, there, "x")
    assert.equal("r", wait_fd(here))
  end)

  it("several may wait for one descriptor, for the same and for different things", function()
    local here, there, _ <close> = socket_pair()
    fill(here)
    concur.run(function()
      local readers = {}
      for i = 1, 3 do
        readers[i] = concur.spawn(wait_fd, here, "r")
      end
      local writer = concur.spawn(wait_fd, here, "w")
      concur.sleep(0)
      there:send "x"
      for _, reader in ipairs(readers) do
        assert.equal("r", reader:result())
      end
      assert.is_false(writer:done())
      writer:cancel()
      concur.wait { writer }
      assert.is_true(writer:cancelled())
    end)
  end)

  it("sees what LuaSocket has read already", function()
    local here, there, _ <close> = socket_pair()
    there:send "one\ntwo\n"
    wait_fd(here)
    here:settimeout(seconds(5))
    assert.equal("one", here:receive "*l")
    assert.equal("r", wait_fd(here, "r", seconds(5)))
    assert.equal("r", wait_fd(here, "rw", seconds(5)))
    assert.equal("two", here:receive "*l")
  end)
end)

describe("what wait_fd takes", function()
  it("is a number", function()
    local here, there, _ <close> = socket_pair()
    there:send "x"
    assert.equal("r", wait_fd(here:getfd()))
    assert.equal("r", wait_fd(here:getfd() + 0.0))
  end)

  it("is a table with getfd or pollfd, which goes first", function()
    local here, there, _ <close> = socket_pair()
    there:send "x"
    assert.equal("r", wait_fd { getfd = function() return here:getfd() end })
    local connection = { fd = here:getfd() }
    function connection:pollfd()
      return self.fd
    end
    function connection.getfd()
      error "asked for the wrong one"
    end
    assert.equal("r", wait_fd(connection))
  end)

  it("is a file of Lua's own", function()
    concur.run(function()
      local pipe = assert(io.popen "sleep 0.05; echo done")
      local ticks = concur.spawn(function()
        for _ = 1, 3 do
          concur.sleep(0.001)
        end
        return "ticked"
      end)
      assert.equal("r", wait_fd(pipe))
      assert.equal("ticked", ticks:result())
      assert.equal("done", pipe:read "l")
      pipe:close()
    end)
  end)

  it("may be a regular file, which is always ready", function()
    local path = support.tmpdir() .. "/file"
    support.write_file(path, "")
    local file <close> = assert(io.open(path))
    assert.equal("r", wait_fd(file, "r", 0))
    assert.equal("rw", wait_fd(file, "rw"))
  end)

  it("says by its method events what it waits for", function()
    local here, there, _ <close> = socket_pair()
    there:send "x"
    local flags = "w"
    local object = {
      pollfd = function() return here:getfd() end,
      events = function() return flags end,
    }
    assert.equal("w", wait_fd(object))
    flags = "rw"
    assert.equal("rw", wait_fd(object))
    flags = nil
    assert.equal("r", wait_fd(object))
    assert.equal("w", wait_fd(object, "w"))
  end)

  it("is a cqueues controller: its own loop runs as a task", function()
    local cqueues = require "cqueues"
    local cqsocket = require "cqueues.socket"
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local controller = cqueues.new()
    local got
    controller:wrap(function()
      local connection = cqsocket.connect("127.0.0.1", math.tointeger(port))
      got = connection:read "*l"
      connection:close()
    end)
    concur.run(function()
      local driver = concur.spawn(function()
        while not controller:empty() do
          assert(controller:step(0))
          if not controller:empty() then
            concur.move_on_after(controller:timeout() or math.huge, wait_fd, controller)
          end
        end
      end)
      wait_fd(server)
      local client = server:accept()
      concur.sleep(0.01)
      client:send "from LuaSocket\n"
      driver:result()
      client:close()
    end)
    server:close()
    assert.equal("from LuaSocket", got)
    controller:close()
  end)

  it("is checked", function()
    local cases = {
      { "#1", "descriptor, file, or object with pollfd or getfd expected", {} },
      { "#1", "got nil", nil },
      { "#1", "got string", "5" },
      { "#1", "got boolean", true },
      { "#1", "no integer representation", 1.5 },
      { "#1", "negative", -1 },
      { "#1", "too large", math.maxinteger },
      { "#1", "not a number but a nil", { pollfd = function() end } },
      { "#1", "not a number but a table", { getfd = function() return {} end } },
      { "#2", "invalid option 'x'", 0, "x" },
      { "#2", "invalid option ''", 0, "" },
      { "#3", "NaN", 0, "r", 0 / 0 },
      { "#3", "number expected", 0, "r", "soon" },
    }
    for _, case in ipairs(cases) do
      local e = tostring(virtual.failure(wait_fd, case[3], case[4], case[5]))
      assert.matches(case[1], e, 1, true)
      assert.matches(case[2], e, 1, true)
    end
  end)

  it("raises when it is closed already", function()
    local here, _, _ <close> = socket_pair()
    here:close()
    assert.matches("was closed", tostring(virtual.failure(wait_fd, here)))
    local file = assert(io.open "/dev/null")
    file:close()
    assert.matches("the file is closed", tostring(virtual.failure(wait_fd, file)))
  end)

  it("raises what its own methods raise", function()
    local object = {}
    assert.equal(object, virtual.failure(wait_fd, { pollfd = function() error(object) end }))
  end)

  it("gives an error when the number is no descriptor", function()
    local ok, err = wait_fd(1000000)
    assert.is_nil(ok)
    assert.equal("EBADF", err.code)
    assert.equal("wait_fd", err.call)
  end)
end)

describe("the time given to wait_fd", function()
  local it = testing.wrap_it(it)

  it("is virtual on a virtual clock, and raises TimeoutError", function()
    local here, _, _ <close> = socket_pair()
    local start = concur.now()
    local e = virtual.failure_of_kind("TimeoutError", wait_fd, here, "r", 3600)
    assert.matches("not ready within 3600", e.message)
    assert.near(3600, concur.now() - start, 1e-6)
  end)

  it("of 0, or less, only looks", function()
    local here, there, _ <close> = socket_pair()
    virtual.failure_of_kind("TimeoutError", wait_fd, here, "r", 0)
    virtual.failure_of_kind("TimeoutError", wait_fd, here, "r", -1)
    there:send "x"
    assert.equal("r", wait_fd(here, "r", 0))
  end)

  it("may be for ever, with a scope around it", function()
    local here, _, _ <close> = socket_pair()
    assert.is_false((concur.move_on_after(1, wait_fd, here, "r", math.huge)))
    virtual.failure_of_kind("TimeoutError", concur.timeout, 1, wait_fd, here)
  end)
end)

describe("a descriptor", function()
  it("is left as it was: a blocking one stays blocking", function()
    local function flags_of(fd)
      local file <close> = io.open("/proc/self/fdinfo/" .. fd)
      return file and file:read("a"):match "flags:%s*(%d+)"
    end
    local before, fd = {}, nil
    for number = 0, 100 do
      before[number] = flags_of(number)
    end
    local pipe = assert(io.popen "sleep 0.05")
    for number = 0, 100 do
      if not before[number] and flags_of(number) then
        fd = number
      end
    end
    assert.is_truthy(fd)
    local function flags()
      return flags_of(fd)
    end
    local as_it_was = flags()
    local timer = concur.get_event_loop():call_later(0.01, function()
      assert.equal(as_it_was, flags())
    end)
    wait_fd(pipe)
    timer:cancel() -- on a slow machine the program had ended before the wait began
    assert.equal(as_it_was, flags())
    pipe:close()
  end)

  it("that is closed meanwhile does no harm: its waiter stays, the number can be used", function()
    local here, there, _ <close> = socket_pair()
    local fd = here:getfd()
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    concur.run(function()
      local waiter = concur.spawn(wait_fd, here)
      concur.sleep(0)
      here:close()
      local new = assert(socket.tcp4())
      assert.equal(fd, new:getfd())
      assert(new:connect("127.0.0.1", port))
      local other = server:accept()
      other:send "x"
      assert.equal("r", wait_fd(new, "r", seconds(5)))
      assert.is_false(waiter:done())
      there:send "for what it stood for"
      assert.equal("r", waiter:result())
      new:close()
      other:close()
    end)
    server:close()
  end)

  it("is closed for good once its waiter was cancelled", function()
    local here, there, _ <close> = socket_pair()
    concur.run(function()
      local waiter = concur.spawn(wait_fd, here)
      concur.sleep(0)
      here:close()
      waiter:cancel()
      concur.wait { waiter }
      there:settimeout(seconds(5))
      assert.same({ nil, "closed", "" }, { there:receive(1) })
    end)
  end)
end)

describe("a task in wait_fd", function()
  it("can be cancelled at every step", function()
    everywhere(function(case)
      local here, there, _ <close> = socket_pair()
      case:victim(function()
        local _ <close> = case:guard()
        return wait_fd(here, "r", 10)
      end)
      local sender = concur.spawn(function()
        concur.sleep(1)
        there:send "x"
      end)
      local outcome, result = case:join()
      sender:cancel()
      concur.wait { sender }
      if outcome == "done" then
        assert.equal("r", result)
      else
        assert.equal("cancelled", outcome)
      end
    end, { also = { "kill" } })
  end)

  it("says so", function()
    local here, _, _ <close> = socket_pair()
    concur.run(function()
      local task = concur.spawn(wait_fd, here)
      concur.sleep(0)
      assert.equal("wait_fd", (task:awaiting()))
    end)
  end)

  it("keeps the object alive that has the descriptor", function()
    concur.run(function()
      local here, there, _ <close> = socket_pair()
      local task = concur.spawn(function()
        return wait_fd(setmetatable({ pollfd = function() return here:getfd() end }, {
          __gc = function() here:close() end,
        }))
      end)
      concur.sleep(0)
      collectgarbage()
      assert.is_true(here:getfd() >= 0)
      there:send "x"
      assert.equal("r", task:result())
    end)
  end)

  it("is forgotten when the state closes", function()
    local result = support.run_lua([[
      local concur = require "concur"
      local wait_fd = require("concur.net").wait_fd
      local socket = require "socket"
      local server = socket.bind("127.0.0.1", 0)
      concur.spawn(wait_fd, server)
      concur.spawn(function()
        wait_fd(server, "r", 100)
      end)
      concur.sleep(0.01)
    ]], { lua = support.host })
    assert.equal(0, result.code, support.describe(result))
  end)

  it("gets an error when no descriptor is left", function()
    local limited = support.tmpdir() .. "/limited"
    support.write_file(limited, 'ulimit -n 40\nexec "$@"\n')
    local script = support.tmpdir() .. "/script.lua"
    support.write_file(script, [[
      local concur = require "concur"
      local wait_fd = require("concur.net").wait_fd
      local socket = require "socket"
      local server = assert(socket.bind("127.0.0.1", 0))
      concur.sleep(0)
      local files = {}
      repeat
        local file = io.open "/dev/null"
        files[#files + 1] = file
      until not file
      local ok, err = wait_fd(server, "r", 1)
      assert(ok == nil and err.code == "EMFILE", err)
      files[1]:close()
      files[2]:close()
      assert(not pcall(wait_fd, server, "r", 0.01))
    ]])
    local result = support.run_file(limited, { lua = "sh", args = { support.lua, script } })
    assert.equal(0, result.code, support.describe(result))
  end)
end)
