-- SPDX-License-Identifier: MIT
-- net.serve over real sockets: one task for each connection, errors that end only their own, limits,
-- graceful ends, slow and rude clients, many connections.

local concur = require "concur"
local core = require "concur.core"
local expect = require "spec.support.expect"
local support = require "spec.support"
local testing = require "concur.testing"

local net, process = concur.net, concur.process
local plain_it = it
local it = testing.wrap_it(it, { clock = false })

-- How many connections at the same time "many" is: `make test` keeps it small, `make connections` is
-- ten thousand.
local MANY = math.tointeger(tonumber(os.getenv "CONCUR_CONNECTIONS") or 500)

local function echo(stream)
  while true do
    local bytes = stream:read_some()
    if not bytes then
      return
    end
    stream:write(bytes)
  end
end

-- Serves on a port of the system's choice: the task, the port, the listener.
local function start(handler, options)
  local listener = assert(net.listen("127.0.0.1", 0))
  local _, port = listener:address()
  return concur.spawn(net.serve, handler, listener, options), port, listener
end

local function connect(port)
  return assert(net.connect("127.0.0.1", port))
end

local function ask(stream, text)
  stream:write(text, "\n")
  return (stream:read "l")
end

describe("net.serve", function()
  it("serves each connection in a task and ends when its listener is closed", function()
    local server, port, listener = start(echo)
    local clients = {}
    for i = 1, 10 do
      clients[i] = connect(port)
    end
    for round = 1, 3 do
      for i, client in ipairs(clients) do
        local text = ("%d of %d"):format(i, round)
        assert.equal(text, ask(client, text))
      end
    end
    for _, client in ipairs(clients) do
      client:close()
    end
    listener:close()
    assert.is_true(server:result())
  end)

  it("listens by itself, over TCP and Unix sockets, and says where", function()
    local path = support.tmpdir() .. "/socket"
    for _, target in ipairs { { "127.0.0.1", 0, {} }, { { path = path } } } do
      local options = type(target[1]) == "table" and target[1] or target[3]
      local listening = concur.Future()
      options.on_listen = function(listener)
        listening:set_result(listener)
      end
      local server = concur.spawn(net.serve, echo, table.unpack(target))
      local listener = listening:result()
      local host, port = listener:address()
      local client <close> = assert(port and net.connect(host, port) or net.connect { path = host })
      assert.equal("hello", ask(client, "hello"))
      client:close()
      server:cancel()
      concur.wait { server }
      assert.is_true(server:cancelled())
      assert.is_true(listener:closed())
    end
  end)

  it("returns why it cannot listen, and refuses wrong options", function()
    local taken <close> = assert(net.listen("127.0.0.1", 0))
    local _, port = taken:address()
    local result, err = net.serve(echo, "127.0.0.1", port)
    assert.is_nil(result)
    assert.equal("EADDRINUSE", err.code)
    expect.message("unknown option 'limits'", net.serve, echo, "127.0.0.1", 0, { limits = 1 })
    expect.message("bad argument #4 to 'serve' (option 'limit' must be at least 1, not 0)",
      net.serve, echo, "127.0.0.1", 0, { limit = 0 })
    expect.message("unknown option 'backlog'", net.serve, echo, taken, { backlog = 1 })
    expect.message("handler expected", net.serve, nil, "127.0.0.1", 0)
  end)

  it("reports the error of a handler and goes on", function(case)
    local server, port, listener = start(function(stream)
      if stream:read() == "fail" then
        error "a broken handler"
      end
      stream:write "fine\n"
    end)
    local bad <close> = connect(port)
    assert.is_nil(ask(bad, "fail"))
    local reports = case:take_reports()
    assert.equal(1, #reports)
    assert.is_truthy(tostring(reports[1].error):find "a broken handler")
    assert.is_truthy(reports[1].traceback:find("net_serve_spec.lua", 1, true))
    local good = connect(port)
    assert.equal("fine", ask(good, "ok"))
    good:close()
    listener:close()
    server:result()
  end)

  it("hands errors to on_error, with the stream, which is open still", function()
    local seen = {}
    local server, port, listener = start(function(stream)
      stream:read()
      error({ code = 7 })
    end, { on_error = function(err, stream)
      seen[#seen + 1] = err.code
      stream:write "sorry\n"
    end })
    local client <close> = connect(port)
    assert.equal("sorry", ask(client, "x"))
    assert.is_nil(client:read())
    assert.same({ 7 }, seen)
    listener:close()
    server:result()
  end)

  it("reports an on_error that fails itself, and goes on", function(case)
    local server, port, listener = start(function(stream)
      stream:read()
      error "a broken handler"
    end, { on_error = function()
      error "a broken on_error"
    end })
    for _ = 1, 2 do
      local client <close> = connect(port)
      assert.is_nil(ask(client, "x"))
      local reports = case:take_reports()
      assert.equal(1, #reports)
      assert.is_truthy(tostring(reports[1].error):find "a broken on_error")
      assert.is_truthy(reports[1].message:find("on_error", 1, true), reports[1].message)
    end
    listener:close()
    server:result()
  end)

  it("sets the options of its connections", function()
    local listening = concur.Future()
    local server = concur.spawn(net.serve, function(stream)
      local nodelay = core.socket_get(stream:fd(), "tcp-nodelay")
      stream:write(tostring(nodelay), " ", core.socket_get(stream:fd(), "tcp-keepidle"), "\n")
    end, "127.0.0.1", 0, { nodelay = false, keepalive = 30, on_listen = function(listener)
      listening:set_result(listener)
    end })
    local client <close> = connect(select(2, listening:result():address()))
    assert.equal("false 30", client:read())
    listening:result():close()
    server:result()
  end)

  it("closes the stream when its handler returns, with unsent bytes sent", function()
    local server, port, listener = start(function(stream)
      stream:write(("x"):rep(3000000))
    end)
    local client <close> = connect(port)
    assert.equal(3000000, #client:read "a")
    listener:close()
    server:result()
  end)

  it("serves at most `limit` connections at a time, the others wait", function()
    local now, most = 0, 0
    local server, port, listener = start(function(stream)
      now = now + 1
      most = math.max(most, now)
      echo(stream)
      now = now - 1
    end, { limit = 3 })
    local clients, answers = {}, {}
    for i = 1, 8 do
      clients[i] = connect(port)
      answers[i] = concur.spawn(function()
        local answer = ask(clients[i], tostring(i))
        clients[i]:close()
        return answer
      end)
    end
    for i, answer in ipairs(answers) do
      assert.equal(tostring(i), answer:result())
    end
    assert.equal(3, most)
    listener:close()
    server:result()
  end)

  it("may be ended by a handler, also when it is full", function()
    for _, limit in ipairs { 1, 2 } do
      local server, port, listener
      server, port, listener = start(function(stream)
        stream:read()
        listener:close()
      end, { limit = limit })
      local client <close> = connect(port)
      assert.is_nil(ask(client, "end"))
      assert.is_true(server:result())
    end
  end)
end)

describe("the end of net.serve", function()
  it("lets handlers finish within the grace time", function()
    local server, port, listener = start(function(stream)
      stream:read()
      concur.sleep(0.02)
      stream:write "done\n"
    end, { grace = 5 })
    local client <close> = connect(port)
    client:write "go\n"
    concur.sleep(0.005)
    listener:close()
    assert.equal("done", client:read())
    assert.is_true(server:result())
  end)

  it("lets them finish when it is cancelled, too", function()
    local server, port = start(function(stream)
      stream:read()
      concur.sleep(0.02)
      stream:write "done\n"
    end)
    local client <close> = connect(port)
    client:write "go\n"
    concur.sleep(0.005)
    server:cancel()
    concur.sleep(0.001)
    local late, err = net.connect("127.0.0.1", port) -- nobody is accepted any more
    assert.is_nil(late)
    assert.equal("ECONNREFUSED", err.code)
    assert.equal("done", client:read())
    concur.wait { server }
    assert.is_true(server:cancelled())
  end)

  it("cancels those that are left, which may clean up, and closes their streams", function()
    local cleaned = 0
    local server, port, listener = start(function(stream)
      local _ <close> = expect.guard(function()
        concur.shield(function()
          concur.sleep(0.001)
          cleaned = cleaned + 1
        end)
      end)
      echo(stream)
    end, { grace = 0.01 })
    local clients = {}
    for i = 1, 20 do
      clients[i] = connect(port)
      assert.equal("x", ask(clients[i], "x"))
    end
    listener:close()
    assert.is_true(server:result())
    assert.equal(20, cleaned)
    for _, client in ipairs(clients) do
      assert.is_nil((client:read()))
      client:close()
    end
  end)

  it("comes at once with a grace of 0", function()
    local server, port, listener = start(echo, { grace = 0 })
    local client <close> = connect(port)
    assert.equal("x", ask(client, "x"))
    listener:close()
    assert.is_true(server:result())
    assert.is_nil((client:read()))
  end)

  plain_it("comes after five seconds, or the grace time that is given", function()
    for grace, expected in pairs { [false] = 5, [0.5] = 0.5, [-1] = 0, [math.huge] = 100 } do
      testing.run(function() -- in virtual time
        local server, port, listener = start(function(stream)
          stream:write "hello\n"
          concur.sleep(100)
        end, { grace = grace or nil })
        local client <close> = connect(port)
        assert.equal("hello", client:read())
        local begun = concur.now()
        listener:close()
        assert.is_true(server:result())
        assert.near(expected, concur.now() - begun, 1e-6)
      end)
    end
  end)

  it("of the whole run leaves nothing", function()
    support.check_lua([[
      local concur = require "concur"
      local net = concur.net
      local ports = {}
      concur.run(function()
        concur.spawn(net.serve, function(s) for l in s:lines() do s:write(l, "\n") end end,
          "127.0.0.1", 0, { on_listen = function(l) ports[1] = select(2, l:address()) end })
        repeat concur.sleep(0) until ports[1]
        local client = assert(net.connect("127.0.0.1", ports[1]))
        client:write "hello\n"
        assert(client:read() == "hello")
      end)
      collectgarbage()
      assert(require("concur.core").counters().handles == 0)
      assert(concur.run(function() return net.connect("127.0.0.1", ports[1]) end) == nil)
    ]])
  end)
end)

describe("a server", function()
  it("stands clients that vanish, reset, half-close, flood, or never read", function(case)
    support.seed()
    local server, port, listener = start(echo, { grace = 0.05 })
    local function rude(kind)
      local client = connect(port)
      if kind == 1 then
        client:close() -- at once
      elseif kind == 2 then
        client:write(("x"):rep(100000))
        client:close(0) -- a reset in the middle of the answer
      elseif kind == 3 then
        client:write "half"
        client:shutdown()
        assert.equal("half", client:read "a")
        client:close()
      elseif kind == 4 then -- floods and never reads
        concur.move_on_after(0.02, function()
          while client:write(("x"):rep(65536)) do
          end
        end)
        client:close(0)
      else
        for i = 1, 20 do -- one byte at a time
          client:write "s"
          assert.equal("s", client:read(1))
          concur.sleep(i % 5 == 0 and 0.001 or 0)
        end
        client:close()
      end
    end
    concur.task_group(function(group)
      for _ = 1, 60 do
        group:spawn(rude, math.random(5))
      end
    end)
    local client <close> = connect(port)
    assert.equal("still alive", ask(client, "still alive"))
    listener:close()
    assert.is_true(server:result())
    assert.same({}, case:take_reports())
  end)

  it("lives on when descriptors run out, and serves those who waited", function()
    local script = support.tmpdir() .. "/script.lua"
    support.write_file(script, [[
      local concur = require "concur"
      local net = concur.net
      require "concur.error_text"
      local errors_seen = 0
      concur.run(function()
        local listener = assert(net.listen("127.0.0.1", 0))
        local _, port = listener:address()
        local server = concur.spawn(net.serve, function(stream)
          stream:write(stream:read "L" or "")
        end, listener, { on_error = function(err)
          assert(err.code == "EMFILE", tostring(err))
          errors_seen = errors_seen + 1
        end })
        local clients = {}
        for round = 1, 3 do
          while true do -- every descriptor that is left is a client
            local client = net.connect("127.0.0.1", port)
            if not client then break end
            clients[#clients + 1] = client
          end
          concur.sleep(0.05)
          local cpu = os.clock()
          concur.sleep(0.3)
          assert(os.clock() - cpu < 0.1, "a busy loop")
          for i = #clients, 1, -1 do
            clients[i]:close()
            clients[i] = nil
          end
          local client = assert(net.connect("127.0.0.1", port))
          client:write "served\n"
          assert(client:read() == "served")
          client:close()
        end
        assert(errors_seen > 0, "it never ran out")
        listener:close()
        server:result()
      end)
      print "lived"]])
    local result = support.execute({ "sh", "-c", 'ulimit -n 60 && exec "$0" "$@"', support.lua,
      script }, { env = {
        LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
        LUA_CPATH = support.build .. "/?.so;;",
      } })
    assert.equal("lived\n", result.stdout, support.describe(result))
  end)

  it("tells once that descriptors are used up, and tries when one of its own is closed", function()
    support.check_lua([[
      local concur = require "concur"
      local net = concur.net
      local EMFILE = 24
      local runner <close> = concur.Runner { clock = concur.testing.Clock() }
      runner:run(function()
        local listener = assert(net.listen("127.0.0.1", 0))
        local _, port = listener:address()
        local told = {}
        local server = concur.spawn(net.serve, function(stream)
          for line in stream:lines() do stream:write(line, "\n") end
        end, listener, { on_error = function(err, stream)
          assert(stream == nil)
          told[#told + 1] = err.code
        end })
        local function ask(client)
          client:write "x\n"
          return client:read()
        end
        for round = 1, 2 do
          local first <close> = assert(net.connect("127.0.0.1", port))
          assert(ask(first) == "x")
          testhost.fail(" accept4 ", 1, 1 << 40, EMFILE)
          local second <close> = assert(net.connect("127.0.0.1", port))
          concur.sleep(1000.5)
          assert(#told == round and told[round] == "EMFILE", #told)
          local tries = testhost.fail()
          assert(tries < 2200, tries) -- one a second, and one more after a collection
          local start = concur.now()
          first:close()
          assert(ask(second) == "x")
          assert(concur.now() == start, "it waited")
        end
        listener:close()
        server:result()
      end)
    ]], { lua = support.host, env = { LUA_CPATH = support.build .. "/faults/?.so;;" } })
  end)

  it("serves many connections at the same time", function()
    -- In a process of its own: a process may have so many descriptors, the clients need them too.
    local script = support.tmpdir() .. "/server.lua"
    support.write_file(script, [[
      local concur = require "concur"
      local most, now = 0, 0
      concur.run(function()
        local listener = assert(concur.net.listen("127.0.0.1", 0))
        print((select(2, listener:address())))
        io.stdout:flush()
        concur.net.serve(function(stream)
          now = now + 1
          most = math.max(most, now)
          for line in stream:lines() do
            if line == "most" then
              line = most
            end
            stream:write(line, "\n")
          end
          now = now - 1
        end, listener)
      end)]])
    local server = assert(process.spawn { support.lua, script, stdout = "pipe", env = {
      LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
      LUA_CPATH = support.build .. "/?.so;;",
    } })
    local port = assert(server.stdout:read "n")
    local clients = {}
    concur.task_group(function(group)
      for i = 1, MANY do
        group:spawn(function()
          clients[i] = connect(port)
          assert.equal("first " .. i, ask(clients[i], "first " .. i))
        end)
        if i % 100 == 0 then
          concur.sleep(0)
        end
      end
    end)
    assert.equal(MANY, #clients)
    assert.equal(tostring(MANY), ask(clients[1], "most"))
    concur.task_group(function(group)
      for i, client in ipairs(clients) do
        group:spawn(function()
          assert.equal("again " .. i, ask(client, "again " .. i))
          client:close()
        end)
      end
    end)
    server:kill()
    server:wait()
    server.stdout:close()
  end)
end)

describe("cancelling a server and its clients at random moments", function()
  it("leaks no descriptor, task or handle", function()
    support.seed()
    local warm <close> = connect(select(2, start(echo, { grace = 0 })))
    assert.is_false(warm:closed())
    for _ = 1, 30 do
      local server, port = start(echo, { grace = math.random(0, 1) * 0.002 })
      concur.move_on_after(math.random() * 0.01, function()
        concur.task_group(function(group)
          for _ = 1, 10 do
            group:spawn(function()
              local client <close> = connect(port)
              while true do
                if client:write(("x"):rep(math.random(1, 100000))) then
                  client:read(math.random(1, 1000))
                else
                  return
                end
              end
            end)
          end
        end)
      end)
      server:cancel()
      concur.wait { server }
    end
    for _, task in ipairs(concur.all_tasks()) do
      if task ~= concur.current_task() then
        task:cancel()
      end
    end
  end)
end)
