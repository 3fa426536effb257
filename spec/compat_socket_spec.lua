-- SPDX-License-Identifier: MIT
-- concur.compat.socket behaves like LuaSocket, and what is written on LuaSocket runs on it as it is,
-- many at a time: socket.http and socket.smtp, lua-redis, with a real nginx and a real Redis.

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local net = require "concur.net"
local servers = require "spec.support.servers"
local socket = require "concur.compat.socket"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

-- A connected pair.
local function pair()
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  local client = assert(socket.connect("127.0.0.1", port))
  local peer = assert(server:accept())
  return client, peer, expect.guard(function()
    client:close()
    peer:close()
    server:close()
  end)
end

describe("concur.compat.socket", function()
  it("answers what LuaSocket answers, on everything", function()
    local seed = tostring(support.seed())
    local outputs = {}
    for _, name in ipairs { "socket", "concur.compat.socket" } do
      local result = support.run_file("spec/compat/socket_script.lua", { args = { name, seed },
        timeout = 30 })
      assert.equal(0, result.code, support.describe(result))
      outputs[#outputs + 1] = result.stdout
    end
    local real, ours = outputs[1]:gmatch "[^\n]*", outputs[2]:gmatch "[^\n]*"
    for line in real do
      assert.equal(line, ours())
    end
    assert.is_true(#outputs[1] > 20000)
    assert.equal(#outputs[1], #outputs[2])
  end)

  it("sets and gets the options of the system", function()
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local client = assert(socket.connect("127.0.0.1", port))
    assert.equal(1, client:setoption("linger", { on = true, timeout = 7 }))
    assert.same({ on = true, timeout = 7 }, client:getoption "linger")
    for _, name in ipairs { "keepalive", "tcp-nodelay", "reuseaddr" } do
      assert.equal(1, client:setoption(name, true))
      assert.is_true(client:getoption(name))
      assert.equal(1, client:setoption(name, false))
      assert.is_false(client:getoption(name))
    end
    assert.is_nil(client:getoption "error")
    assert.is_false((pcall(client.setoption, client, "error", true)))
    local ok, message = client:getoption "ipv6-unicast-hops" -- of a socket of IPv4
    assert.is_nil(ok)
    assert.equal("string", type(message))
    assert.is_nil((client:setoption("ipv6-unicast-hops", 5)))
    client:close()
    server:close()
    local six = assert(socket.udp6())
    assert.equal(1, six:setoption("ipv6-unicast-hops", 5))
    assert.equal(5, six:getoption "ipv6-unicast-hops")
    six:close()
  end)

  it("suspends the task, not the program", function()
    local client, peer, _ <close> = pair()
    local wait = 0.02 * support.time_scale
    concur.run(function()
      local ticks = 0
      local ticker = concur.spawn(function()
        while true do
          concur.sleep(0.001)
          ticks = ticks + 1
        end
      end)
      -- What a call returns, during which another task goes on.
      local function meanwhile(fn, ...)
        local before = ticks
        local results = table.pack(fn(...))
        assert.is_true(ticks >= before + 2, ticks - before)
        return table.unpack(results, 1, results.n)
      end
      local reader = concur.spawn(client.receive, client, "*l")
      client:settimeout(5 * support.time_scale)
      meanwhile(socket.sleep, wait)
      assert.is_false(reader:done())
      peer:send "a line\n"
      assert.equal("a line", (reader:result()))
      peer:settimeout(wait)
      assert.same({ nil, "timeout", "" }, { meanwhile(peer.receive, peer) })
      local _, _, err = meanwhile(socket.select, { peer }, nil, wait)
      assert.equal("timeout", err)
      ticker:cancel()
    end)
  end)

  it("serves many clients, each by a task", function()
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    concur.run(function()
      local acceptor = concur.spawn(function()
        concur.task_group(function(group)
          while true do
            local peer = server:accept()
            group:spawn(function()
              for line in function() return (peer:receive()) end do
                peer:send(line:upper() .. "\n")
              end
              peer:close()
            end)
          end
        end)
      end)
      local clients = {}
      for i = 1, 50 do
        clients[i] = function()
          local client = assert(socket.connect("localhost", port))
          for j = 1, 5 do
            client:send(("client %d line %d\r\n"):format(i, j))
            assert.equal(("CLIENT %d LINE %d"):format(i, j), client:receive())
          end
          client:close()
        end
      end
      concur.gather(clients)
      acceptor:cancel()
    end)
    server:close()
  end)

  it("lets cancellation and other errors through protect", function()
    local client, _, _ <close> = pair()
    local receive = socket.protect(function() return client:receive() end)
    concur.run(function()
      assert.is_false((concur.move_on_after(0.005, receive)))
      virtual.failure_of_kind("TimeoutError", concur.timeout, 0.005, receive)
    end)
    local object = {}
    assert.equal(object, virtual.failure(socket.protect(function() error(object) end)))
  end)

  it("loses nothing when a receive is cancelled", function()
    local client, peer, _ <close> = pair()
    concur.run(function()
      for i = 1, 50 do
        local line = ("line %d"):format(i)
        local reader = concur.spawn(client.receive, client)
        concur.sleep(0)
        if i % 2 == 0 then
          reader:cancel()
          concur.wait { reader }
        end
        peer:send(line .. "\n")
        assert.equal(line, (i % 2 == 0 and client:receive() or i % 2 == 1 and reader:result()))
      end
    end)
  end)

  it("can be cancelled at every step; nothing is lost, sent in part, or left open", function()
    local function exchange(case, method, ...)
      local client, peer, _ <close> = pair()
      peer:setoption("tcp-nodelay", true)
      local arguments = table.pack(...)
      local victim = case:victim(function()
        local _ <close> = case:guard()
        return client[method](client, table.unpack(arguments))
      end)
      local sender = concur.spawn(function()
        for _, piece in ipairs { "li", "ne\n12", "3456" } do
          peer:send(piece)
          concur.sleep(1)
        end
        peer:shutdown "send"
      end)
      local outcome, result = case:join(victim)
      concur.wait { sender }
      local rest = client:receive "*a"
      client:shutdown "send"
      return outcome, result, rest, peer:receive "*a" or ""
    end
    everywhere(function(case)
      local outcome, result, rest = exchange(case, "receive", "*l")
      assert.equal("line\n123456", (outcome == "done" and result .. "\n" or "") .. rest)
    end)
    everywhere(function(case)
      local outcome, result, rest = exchange(case, "receive", 8)
      assert.equal("line\n123456", (outcome == "done" and result or "") .. rest)
    end)
    everywhere(function(case)
      local outcome, _, _, sent = exchange(case, "send", "abcdef", 2, 4)
      assert.equal(outcome == "done" and "bcd" or "", sent)
    end)
    everywhere(function(case)
      local server = assert(socket.bind("127.0.0.1", 0))
      local _, port = server:getsockname()
      local victim = case:victim(function()
        local client = assert(socket.connect("localhost", port))
        local _ <close> = client
        local peer = assert(server:accept())
        local _ <close> = peer
        return #socket.select({ client }, { peer }, 0.1)
      end)
      local outcome, result = case:join(victim)
      assert.is_truthy(outcome == "cancelled" or result == 0, tostring(result))
      server:close()
      collectgarbage()
    end)
  end)

  it("takes the place of LuaSocket for those who ask for it, or for everybody", function()
    local out = support.check_lua [[
      local concur = require "concur"
      local socket = require "concur.compat.socket"
      local http = socket.require "socket.http"
      assert(http == socket.require "socket.http")
      assert(socket.require "socket" == socket)
      assert(socket.require "string" == string)
      assert(socket.require "concur.net" == concur.net)
      assert(package.loaded["socket.http"] == nil and package.loaded.socket == nil)
      assert(not pcall(socket.require, "no.such.module"))
      local uninstall = socket.install()
      assert(require "socket" == socket and require "socket.core" == socket)
      assert(require "socket.http" ~= http)
      uninstall()
      assert(package.loaded.socket == nil)
      assert(require "socket" ~= socket)
      print(select(2, pcall(socket.install)))
    ]]
    assert.matches("InvalidState: 'socket.*' is loaded already", out)
  end)
end)

describe("LuaSocket's own socket.http, unmodified", function()
  local files = {
    ["plain.txt"] = "plain text\n",
    ["large.bin"] = ("0123456789abcdef"):rep(65536),
    ["chunked/page.txt"] = ("a line that is not short\n"):rep(3000),
    ["slow/file.txt"] = ("s"):rep(30000),
  }
  local nginx, http, ltn12

  setup(function()
    nginx = servers.nginx(files, 20000)
    http, ltn12 = socket.require "socket.http", socket.require "ltn12"
    http.TIMEOUT = 20
  end)

  teardown(function()
    nginx:close()
  end)

  local function url(path)
    return ("http://127.0.0.1:%d/%s"):format(nginx.port, path)
  end

  it("gets what a real nginx serves", function()
    local body, code, headers = http.request(url "plain.txt")
    assert.same({ files["plain.txt"], 200, "11" }, { body, code, headers["content-length"] })
    assert.equal(files["large.bin"], (http.request(url "large.bin")))
    body, code, headers = http.request(url "chunked/page.txt")
    assert.same({ 200, "chunked" }, { code, headers["transfer-encoding"] })
    assert.equal(files["chunked/page.txt"], body)
    assert.equal(404, (select(2, http.request(url "none"))))
    assert.equal(files["plain.txt"], (http.request(url "moved")))
    local nothing, err = http.request "http://127.0.0.1:1/"
    assert.same({ nil, "connection refused" }, { nothing, err })
  end)

  it("posts, authenticates, sends headers, fills sinks", function()
    local parts = {}
    local ok, code = http.request {
      url = url "echo", method = "POST", sink = ltn12.sink.table(parts),
      source = ltn12.source.string(("x"):rep(1000)),
      headers = { ["content-length"] = 1000, ["x-test"] = "yes" },
    }
    assert.same({ 1, 200, "POST 1000 yes" }, { ok, code, table.concat(parts) })
    assert.equal("POST 3 ", (http.request(url "echo", "a=b")))
    assert.equal(401, (select(2, http.request(url "secret"))))
    local with_password = url("secret"):gsub("//", "//u:p@")
    assert.equal(files["plain.txt"], (http.request(with_password)))
  end)

  it("runs in many tasks at once", function()
    concur.run(function()
      local start, requests = concur.now(), {}
      for i = 1, 20 do -- each takes half a second
        requests[i] = function()
          return http.request(url "slow/file.txt")
        end
      end
      for i = 21, 120 do
        requests[i] = function()
          return http.request(url "plain.txt")
        end
      end
      local bodies = concur.gather(requests)
      for i = 1, 120 do
        assert.is_true(files[i <= 20 and "slow/file.txt" or "plain.txt"] == bodies[i])
      end
      assert.is_true(concur.now() - start < 4 * support.time_scale, "one after the other")
    end)
  end)

  it("can be cancelled, and given up after a time", function()
    concur.run(function()
      local task = concur.spawn(http.request, url "slow/file.txt")
      concur.sleep(0.02)
      task:cancel()
      concur.wait { task }
      assert.is_true(task:cancelled())
      assert.is_false((concur.move_on_after(0.02, http.request, url "slow/file.txt")))
    end)
    collectgarbage()
  end)
end)

describe("LuaSocket's own socket.smtp, unmodified", function()
  -- A server that understands as much SMTP as a client needs; keeps what it is sent.
  local function serve(stream, mails)
    local function say(text)
      stream:write(text, "\r\n")
    end
    local mail = { to = {} }
    say "220 spec ready"
    for line in stream:lines() do
      line = line:gsub("\r$", "")
      local command = line:match("^%a+"):upper()
      if command == "EHLO" then
        say "250-spec"
        say "250 8BITMIME"
      elseif command == "MAIL" then
        mail.from = line:match "<(.*)>"
        say "250 ok"
      elseif command == "RCPT" then
        table.insert(mail.to, line:match "<(.*)>")
        say(mail.to[#mail.to]:find "nobody" and "550 no such user" or "250 ok")
      elseif command == "DATA" then
        say "354 go on"
        local data = stream:read_until "\r\n.\r\n"
        mail.data = data
        mails[#mails + 1] = mail
        say "250 queued"
      else
        say "221 bye"
        break
      end
    end
  end

  it("sends mail, many at a time", function()
    local smtp = socket.require "socket.smtp"
    concur.run(function()
      local mails = {}
      local listening = concur.Future()
      local server = concur.spawn(net.serve, function(stream)
        serve(stream, mails)
      end, "127.0.0.1", 0, { on_listen = function(listener)
        listening:set_result(select(2, listener:address()))
      end })
      local port = listening:result()
      local function send(i)
        return smtp.send {
          from = ("<from%d@example.org>"):format(i), rcpt = { ("<to%d@example.org>"):format(i) },
          source = smtp.message { headers = { subject = "mail " .. i },
            body = "line\r\n.\r\nend " .. i },
          server = "127.0.0.1", port = port,
        }
      end
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = function() return send(i) end
      end
      assert.same(20, #concur.gather(tasks))
      assert.equal(20, #mails)
      for _, mail in ipairs(mails) do
        local i = mail.from:match "%d+"
        assert.same({ ("to%s@example.org"):format(i) }, mail.to)
        assert.matches("Subject: mail " .. i, mail.data, 1, true)
        assert.matches("\r\n..\r\nend " .. i, mail.data, 1, true)
      end
      local ok, err = smtp.send { from = "<a@b>", rcpt = "<nobody@b>", source = smtp.message {
        body = "x" }, server = "127.0.0.1", port = port }
      assert.is_nil(ok)
      assert.matches("550", err)
      server:cancel()
    end)
  end)
end)

describe("lua-redis, unmodified", function()
  local server, redis

  setup(function()
    server = servers.redis()
    local path = support.execute({ "sh", "-c", "ls /usr/share/lua/*/redis.lua" }).stdout:match "%S+"
    package.path = package.path .. ";" .. path:gsub("redis%.lua$", "?.lua")
    redis = socket.require "redis"
  end)

  teardown(function()
    server:close()
  end)

  local function connect()
    local client = redis.connect("127.0.0.1", server.port)
    return client, expect.guard(function() client:quit() end)
  end

  it("talks to a real Redis", function()
    local client, _ <close> = connect()
    assert.is_true(client:ping())
    assert.is_true(client:set("key", "value\r\n\0 of any bytes"))
    assert.equal("value\r\n\0 of any bytes", client:get "key")
    assert.is_nil(client:get "none")
    assert.equal(5, client:incrby("count", 5))
    client:rpush("list", "a", "b", "c")
    assert.same({ "a", "b", "c" }, client:lrange("list", 0, -1))
    local large = ("x"):rep(1000000)
    client:set("large", large)
    assert.equal(large, client:get "large")
    local replies = client:pipeline(function(pipe) -- `incr` there needs Lua 5.2
      for i = 1, 100 do
        pipe:exists(i % 2 == 0 and "count" or "none")
      end
    end)
    assert.same({ 100, false, true }, { #replies, replies[99], replies[100] })
    assert.matches("WRONGTYPE", tostring(virtual.failure(client.incr, client, "list")))
  end)

  it("runs in many tasks at once: some wait in BLPOP while others work", function()
    concur.run(function()
      local waiting, got = {}, {}
      for i = 1, 20 do
        waiting[i] = concur.spawn(function()
          local client, _ <close> = connect()
          local reply = client:blpop("jobs", 10)
          got[#got + 1] = reply[2]
        end)
      end
      local workers = {}
      for i = 1, 30 do
        workers[i] = function()
          local client, _ <close> = connect()
          for _ = 1, 20 do
            client:incr "shared"
          end
        end
      end
      concur.gather(workers)
      assert.same({}, got)
      local client, _ <close> = connect()
      assert.equal("600", client:get "shared")
      for i = 1, 20 do
        client:rpush("jobs", "job " .. i)
      end
      concur.gather(waiting)
      assert.equal(20, #got)
    end)
  end)

  it("transactions and subscriptions", function()
    concur.run(function()
      local heard = {}
      local subscriber = concur.spawn(function()
        local client, _ <close> = connect()
        for message, abort in client:pubsub { subscribe = { "news" } } do
          heard[#heard + 1] = message.kind
          if message.payload == "stop" then
            abort()
          end
        end
      end)
      local client, _ <close> = connect()
      for _ = 1, 1000 do
        if client:publish("news", "hello") > 0 then
          break
        end
        concur.sleep(0.005)
      end
      client:publish("news", "stop")
      subscriber:result()
      assert.same({ "subscribe", "message", "message" }, heard)
      local replies = client:transaction(function(t)
        t:set("in", "transaction")
        t:get "in"
      end)
      assert.equal("transaction", replies[2])
    end)
  end)

  it("reports a server that goes away", function()
    local other = servers.redis()
    local client = redis.connect("127.0.0.1", other.port)
    assert.is_true(client:ping())
    other:close()
    assert.matches("closed", tostring(virtual.failure(client.ping, client)))
    assert.matches("connection refused",
      tostring(virtual.failure(redis.connect, "127.0.0.1", other.port)))
    client.network.socket:close()
  end)
end)
