-- SPDX-License-Identifier: MIT
-- The example servers, with real clients: curl at the HTTP server, redis-cli and redis-benchmark at
-- the one that speaks Redis. Load: `make stress-servers`.

local concur = require "concur"
local net = require "concur.net"
local servers = require "spec.support.servers"
local socket = require "concur.compat.socket"
local support = require "spec.support"

describe("the HTTP server", function()
  local server

  setup(function()
    server = servers.example("examples/15_http_server.lua", { HTTP_SECONDS = "0.5" })
  end)

  teardown(function()
    server:close()
  end)

  local function curl(path, ...)
    local result = support.execute { "curl", "-sS", "--max-time", "15", "-w",
      "\n%{http_code} %{num_connects}", ("http://127.0.0.1:%d%s"):format(server.port, path), ... }
    assert.equal(0, result.code, support.describe(result))
    local body, code, connects = result.stdout:match "^(.*)\n(%d+) (%d+)$"
    return body, tonumber(code), tonumber(connects)
  end

  -- Sends bytes as they are, and returns everything that comes back.
  local function raw(...)
    local stream <close> = assert(net.connect("127.0.0.1", server.port))
    for _, piece in ipairs { ... } do
      stream:write(piece)
      concur.sleep(0.002)
    end
    return stream:read "a"
  end

  local function status_of(...)
    return tonumber(raw(...):match "^HTTP/1.1 (%d+) ")
  end

  it("answers GET, HEAD and POST", function()
    assert.same({ "Hello from concur.\n", 200, 1 }, { curl "/" })
    local head, code = curl("/", "-I")
    assert.equal(200, code)
    assert.matches("content-length: 19", head, 1, true)
    assert.same({ "some data", 200, 1 }, { curl("/echo", "-d", "some data") })
    assert.equal("", (curl("/echo", "-X", "POST")))
    assert.matches("x%-test: yes\n", (curl("/headers?a=b", "-H", "X-Test:   yes  ")))
    local large = support.tmpdir() .. "/large"
    support.write_file(large, ("0123456789"):rep(100000))
    for _, header in ipairs { "X: y", "Expect: 100-continue", "Transfer-Encoding: chunked" } do
      assert.equal(1000000, #curl("/echo", "--data-binary", "@" .. large, "-H", header))
    end
  end)

  it("keeps connections open, or not, as the client wants", function()
    local url = ("http://127.0.0.1:%d/"):format(server.port)
    local result = support.execute { "curl", "-sS", "-w", "%{num_connects} ", "-o", "/dev/null",
      url, "-o", "/dev/null", url, "-o", "/dev/null", url }
    assert.equal("1 0 0 ", result.stdout)
    result = support.execute { "curl", "-sS", "-w", "%{num_connects} ", "-H", "Connection: close",
      "-o", "/dev/null", url, "-o", "/dev/null", url }
    assert.equal("1 1 ", result.stdout)
    assert.equal("Hello from concur.\n", (curl("/", "--http1.0")))
    assert.equal("1\n2\n3\n4\n5\n", (curl("/count", "--http1.0")))
  end)

  it("answers in chunks, and requests that come together in their order", function()
    assert.equal("1\n2\n3\n4\n5\n", (curl "/count"))
    assert.matches("^2\r\n1\n\r\n2\r\n2\n.*0\r\n\r\n$", (curl("/count", "--raw")))
    local answer = raw("GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nhost: x\r\n" ..
      "content-length: 3\r\n\r\nabcGET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    local bodies = {}
    for body in answer:gmatch "\r\n\r\n([^H]*)" do
      bodies[#bodies + 1] = body
    end
    assert.same({ "", "abc", "" }, { bodies[1]:match "^$" or "", bodies[2], bodies[3] })
    assert.equal(3, select(2, answer:gsub("HTTP/1.1 200 OK", "")))
    assert.matches("Hello from concur.\nHTTP", answer, 1, true)
  end)

  it("takes requests in any pieces", function()
    local request = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" ..
      "Connection: close\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
    local pieces = {}
    for i = 1, #request, 7 do
      pieces[#pieces + 1] = request:sub(i, i + 6)
    end
    assert.matches("\r\n\r\nabc0123456789$", raw(table.unpack(pieces)))
  end)

  it("refuses what is not HTTP, too much, or unknown; and lives on", function()
    local host = " HTTP/1.1\r\nHost: x\r\n"
    local cases = {
      { 400, "nonsense\r\n\r\n" },
      { 400, "GET /\r\n\r\n" },
      { 400, "GET  / HTTP/1.1\r\nHost: x\r\n\r\n" },
      { 400, "GET / HTTP/1.1\r\n\r\n" },
      { 400, "GET /" .. host .. "no colon\r\n\r\n" },
      { 400, "GET /" .. host .. " folded: x\r\n\r\n" },
      { 400, "GET /" .. host .. "name : x\r\n\r\n" },
      { 400, "GET /" .. host .. "host: y\r\n\r\n" },
      { 400, "POST /echo" .. host .. "Content-Length: x\r\n\r\n" },
      { 400, "POST /echo" .. host .. "Content-Length: -1\r\n\r\n" },
      { 400, "POST /echo" .. host .. "Content-Length: 1\r\nContent-Length: 2\r\n\r\n" },
      { 400, "POST /echo" .. host .. "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" },
      { 400, "POST /echo" .. host .. "Transfer-Encoding: chunked\r\n\r\nxyz\r\n" },
      { 400, "POST /echo" .. host .. "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n" },
      { 405, "DELETE /" .. host .. "Connection: close\r\n\r\n" },
      { 404, "GET /nowhere" .. host .. "Connection: close\r\n\r\n" },
      { 413, "POST /echo" .. host .. "Content-Length: 99999999\r\n\r\n" },
      { 413, "POST /echo" .. host .. "Content-Length: 99999999999999999999999\r\n\r\n" },
      { 413, "POST /echo" .. host .. "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n" },
      { 431, "GET /" .. host .. "X: " .. ("x"):rep(20000) .. "\r\n\r\n" },
      { 500, "GET /broken" .. host .. "\r\n" },
      { 501, "POST /echo" .. host .. "Transfer-Encoding: gzip\r\n\r\n" },
      { 505, "GET / HTTP/2.0\r\nHost: x\r\n\r\n" },
      { 200, "\r\n\r\nGET /" .. host .. "Connection: close\r\n\r\n" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[1], status_of(case[2]), case[2]:sub(1, 80))
    end
    assert.equal("Hello from concur.\n", (curl "/"))
  end)

  it("has no patience with slow clients, and none with those who go away", function()
    concur.run(function()
      local start = concur.now()
      local early, idle, slow_body = concur.gather(function()
        return status_of "GET / HTT"
      end, function()
        return raw()
      end, function()
        return status_of "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
      end)
      assert.same({ 408, "", 408 }, { early, idle, slow_body })
      assert.is_true(concur.now() - start < 5 * support.time_scale)
      for _ = 1, 20 do
        local stream = assert(net.connect("127.0.0.1", server.port))
        stream:write "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc"
        stream:close()
      end
    end)
    assert.equal("Hello from concur.\n", (curl "/"))
    assert.is_nil(server.log():find "stack traceback")
  end)

  it("serves many clients at once", function()
    local http = socket.require "socket.http"
    local patient <close> = servers.example "examples/15_http_server.lua"
    concur.run(function()
      local requests = {}
      for i = 1, 200 do
        requests[i] = function()
          return (http.request(("http://127.0.0.1:%d/echo"):format(patient.port), "body " .. i))
        end
      end
      local bodies = concur.gather(requests)
      for i = 1, 200 do
        assert.equal("body " .. i, bodies[i])
      end
    end)
  end)
end)

describe("the server that speaks Redis", function()
  local server

  setup(function()
    server = servers.example "examples/16_redis_server.lua"
  end)

  teardown(function()
    server:close()
  end)

  local function execute(program, options, ...)
    local result = support.execute({ program, "-p", server.port, ... }, options)
    assert.equal(0, result.code, support.describe(result))
    return result.stdout
  end

  local function cli(...)
    return execute("redis-cli", nil, ...)
  end

  it("answers redis-cli", function()
    assert.equal("PONG\n", cli "PING")
    assert.equal("OK\n", cli("SET", "key", "a value\r\nof any bytes"))
    assert.equal("a value\r\nof any bytes\n", cli("GET", "key"))
    assert.equal("\n", cli("GET", "none"))
    assert.equal("1\n", cli("INCR", "count"))
    assert.equal("42\n", cli("INCRBY", "count", "41"))
    assert.equal("OK\n", cli("MSET", "a", "1", "b", "2"))
    assert.equal("1\n\n2\n", cli("MGET", "a", "none", "b"))
    assert.equal("2\n", cli("EXISTS", "a", "none", "b"))
    assert.equal("2\n", cli("DEL", "a", "b", "c"))
    assert.matches("ERR value is not an integer", cli("INCR", "key"))
    assert.matches("ERR unknown command 'flushall'", cli "FLUSHALL")
    assert.matches("ERR wrong number of arguments for 'get'", cli "GET")
  end)

  it("takes a flood of commands in one go", function()
    local lines = {}
    for i = 1, 5000 do
      lines[i] = ("*3\r\n$3\r\nSET\r\n$%d\r\nkey%d\r\n$%d\r\n%d\r\n"):format(#("key" .. i), i,
        #tostring(i), i)
    end
    local out = execute("redis-cli", { stdin = table.concat(lines) }, "--pipe")
    assert.matches("errors: 0, replies: 5000", out)
    assert.equal("5000\n", cli("GET", "key5000"))
  end)

  it("answers redis-benchmark", function()
    local out = execute("redis-benchmark", { timeout = 60 }, "-t", "ping,set,get,incr,mset", "-n",
      "2000", "-c", "20", "-P", "8", "-q")
    local _, tests = out:gsub("requests per second", "")
    assert.is_true(tests >= 5, out)
  end)

  it("ends connections that do not speak it, and lives on", function()
    local function raw(bytes)
      local stream <close> = assert(net.connect("127.0.0.1", server.port))
      stream:write(bytes)
      return stream:read "a"
    end
    for _, bytes in ipairs { "*x\r\n", "*99999999\r\n", "*1\r\nPING\r\n", "*1\r\n$-5\r\n",
      ("x"):rep(70000) } do
      assert.matches("^%-ERR Protocol error", raw(bytes))
    end
    assert.equal("+PONG\r\n$2\r\nhi\r\n+OK\r\n", raw "PING\r\n\r\nECHO hi\r\nQUIT\r\n")
    assert.equal("PONG\n", cli "PING")
    assert.is_nil(server.log():find "stack traceback")
  end)
end)
