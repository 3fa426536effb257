-- SPDX-License-Identifier: MIT
-- dns.resolve and dns.reverse: without any network, only names that this machine knows.

local concur = require "concur"
local dns = require "concur.dns"
local everywhere = require "spec.support.cancel_everywhere"
local support = require "spec.support"
local testing = require "concur.testing"
local virtual = require "spec.support.virtual"

local function entry(address, family, port, kind)
  return { address = address, family = family, port = port, type = kind or "tcp" }
end

local V4, V6 = "127.0.0.1", "::1"

-- Runs the code in a child whose resolver is spec/host/slow_names.c.
local function run_with_slow_names(code)
  local library = support.tmpdir() .. "/slow_names.so"
  local built = support.execute { os.getenv "CC" or "cc", "-shared", "-fPIC", "-D_GNU_SOURCE",
    "-Wall", "-Werror", "-o", library, "spec/host/slow_names.c", "-ldl" }
  assert.equal(0, built.code, support.describe(built))
  local result = support.run_lua([[
    local concur = require "concur"
    local dns = require "concur.dns"
    local scale = ]] .. support.time_scale .. "\n" .. code, {
    env = {
      LD_PRELOAD = library,
      ASAN_OPTIONS = (os.getenv "ASAN_OPTIONS" or "") .. ":verify_asan_link_order=0",
    },
  })
  assert.equal(0, result.code, support.describe(result))
  return result.stdout
end

describe("dns.resolve", function()
  it("answers for numeric addresses", function()
    assert.same({ entry(V4, "inet", 80) }, dns.resolve(V4, 80))
    assert.same({ entry(V6, "inet6", 80) }, dns.resolve(V6, 80))
    assert.same({ entry(V6, "inet6", 80) }, dns.resolve("0:0::0:1", "80"))
    assert.same({ entry(V4, "inet", 0) }, dns.resolve(V4))
    assert.same({ entry(V4, "inet", 53, "udp") }, dns.resolve(V4, 53, { type = "udp" }))
    assert.same({ entry("fe80::1%lo", "inet6", 1) }, dns.resolve("fe80::1%lo", 1))
  end)

  it("knows localhost: IPv4 first", function()
    local both = { entry(V4, "inet", 80), entry(V6, "inet6", 80) }
    assert.same(both, dns.resolve("localhost", 80))
    assert.same(both, dns.resolve("LocalHost", "80"))
    assert.same({ both[1] }, dns.resolve("localhost", 80, { family = "inet" }))
    assert.same({ both[2] }, dns.resolve("localhost", 80, { family = "inet6" }))
    assert.same(both, dns.resolve("localhost", 80, { family = "any", numeric = true }))
  end)

  it("uses no thread for these", function()
    local before = support.threads()
    dns.resolve(V4, 80)
    dns.resolve("localhost", 80)
    dns.resolve(nil, 80)
    dns.resolve("no.number", 80, { numeric = true })
    assert.equal(before, support.threads())
  end)

  it("without a host gives the addresses of this machine, to connect to or to listen on", function()
    local loopback, all = {}, {}
    for _, each in ipairs(dns.resolve(nil, 80)) do
      loopback[each.address] = each.port
    end
    for _, each in ipairs(dns.resolve(nil, "80", { passive = true })) do
      all[each.address] = each.port
    end
    assert.equal(80, loopback[V4])
    assert.equal(80, all["0.0.0.0"])
    assert.same({ entry("::", "inet6", 7) },
      dns.resolve(nil, 7, { passive = true, family = "inet6" }))
  end)

  it("looks services up by name", function()
    assert.same({ entry(V4, "inet", 80) }, dns.resolve(V4, "http"))
    local list = assert(dns.resolve("localhost", "http"))
    assert.equal(80, list[1].port)
    local ok, err = dns.resolve(V4, "no-such-service")
    assert.is_nil(ok)
    assert.equal("EAI_SERVICE", err.code)
  end)

  it("asks the system for names: this one is in the hosts file", function()
    local name
    for line in io.lines "/etc/hosts" do
      name = name or line:match "^127%.%S+%s+(%S+)$"
    end
    local list = assert(dns.resolve(name or "localhost", 80, { family = "inet" }))
    assert.matches("^127%.", list[1].address)
  end)

  it("gives an error for what is not there", function()
    local ok, err = dns.resolve("no.number", 80, { numeric = true })
    assert.is_nil(ok)
    assert.is_true(concur.errors.is(err, "OSError"))
    assert.equal("EAI_NONAME", err.code)
    assert.equal("resolve", err.call)
    assert.equal("no.number", err.address)
    assert.matches("resolve no.number: .+ %(EAI_NONAME%)", tostring(err))
    ok, err = dns.resolve(V6, 80, { family = "inet" })
    assert.is_nil(ok)
    assert.equal("EAI_NONAME", err.code)
  end)

  it("gives an error for a name that no server may know", function()
    local out = support.check_lua([[
      local dns = require "concur.dns"
      print(select(2, dns.resolve("concur.invalid", 80)).code)
    ]], { env = { RES_OPTIONS = "timeout:1 attempts:1" } })
    assert.is_true(out == "EAI_NONAME\n" or out == "EAI_AGAIN\n", out)
  end)

  it("checks its arguments", function()
    local cases = {
      { "#1", "a host or a service expected" },
      { "#1", "string expected, got table", {} },
      { "#1", "zero byte", "a\0b" },
      { "#1", "too long", ("x"):rep(2000) },
      { "#2", "port out of range", "x", 65536 },
      { "#2", "port out of range", "x", -1 },
      { "#2", "port out of range", "x", "65536" },
      { "#2", "no integer representation", "x", 1.5 },
      { "#2", "too long", "x", ("x"):rep(100) },
      { "#3", "table expected", "x", 1, 1 },
      { "#3", "unknown option 'famly'", "x", 1, { famly = "inet" } },
      { "#3", "'ipv4' is not possible", "x", 1, { family = "ipv4" } },
      { "#3", "'raw' is not possible", "x", 1, { type = "raw" } },
      { "#3", "passive", "x", 1, { passive = 1 } },
    }
    for _, case in ipairs(cases) do
      local e = tostring(virtual.failure(dns.resolve, case[3], case[4], case[5]))
      assert.matches(case[1], e, 1, true)
      assert.matches(case[2], e, 1, true)
    end
  end)
end)

describe("dns.reverse", function()
  it("gives the name of an address", function()
    assert.equal("localhost", dns.reverse(V4))
  end)

  it("gives an error for what is no address", function()
    for _, text in ipairs { "localhost", "", "300.1.1.1", ":::1" } do
      local ok, err = dns.reverse(text)
      assert.is_nil(ok)
      assert.equal("EINVAL", err.code)
      assert.equal("reverse", err.call)
    end
    assert.matches("string expected", tostring(virtual.failure(dns.reverse)))
    assert.matches("zero byte", tostring(virtual.failure(dns.reverse, "::1\0")))
  end)
end)

describe("a lookup", function()
  it("can be cancelled at every step", function()
    everywhere(function(case)
      case:victim(function()
        local _ <close> = case:guard()
        local list = dns.resolve("localhost", "http")
        return list[1].port, dns.reverse(V4)
      end)
      local outcome, port, name = case:join()
      if outcome == "done" then
        assert.equal(80, port)
        assert.equal("localhost", name)
      else
        assert.equal("cancelled", outcome)
      end
    end, { modes = { "task", "wait", "scope", "top" }, also = { "kill" } })
  end)

  it("checks for cancellation first, though it could answer at once", function()
    testing.run(function()
      local reached = false
      local ok = concur.cancel_scope(function(scope)
        scope:cancel()
        dns.resolve(V4, 80)
        reached = true
      end)
      assert.is_false(ok)
      assert.is_false(reached)
    end)
  end)

  it("does not block the loop, and many run side by side", function()
    local out = run_with_slow_names [[
      concur.run(function()
        local ticks = 0
        local ticker = concur.spawn(function()
          while true do
            concur.sleep(0.005)
            ticks = ticks + 1
          end
        end)
        local start, lookups = concur.now(), {}
        for i = 1, 8 do
          lookups[i] = function()
            return assert(dns.resolve("slow-200", 80))[1].address
          end
        end
        local results = concur.gather(lookups)
        assert(results[1] == "127.0.0.1" and results[8] == "127.0.0.1")
        assert(concur.now() - start < 0.8 * scale, "one after the other")
        assert(ticks > 5, "the loop was blocked")
        assert(dns.reverse "127.0.0.9" == "nine")
        ticker:cancel()
      end)
      print "done"
    ]]
    assert.equal("done\n", out)
  end)

  it("has eight threads at most, started when they are needed", function()
    run_with_slow_names [[
      package.path = package.path .. ";./?.lua"
      local support = require "spec.support"
      concur.run(function()
        assert(dns.resolve("slow-1", 80))
        local others, most, lookups = support.threads() - 1, 0, {}
        for i = 1, 20 do
          lookups[i] = concur.spawn(dns.resolve, "slow-200", 80)
        end
        while not lookups[20]:done() do
          concur.sleep(0.005)
          most = math.max(most, support.threads() - others)
        end
        assert(most == 8, most)
        concur.wait(lookups)
      end)
    ]]
  end)

  it("does not wait behind long jobs of the thread pool", function()
    run_with_slow_names [[
      concur.run(function()
        concur.default_executor(concur.ThreadPoolExecutor(1))
        local job = concur.spawn(concur.to_thread, os.execute, "sleep 1")
        concur.sleep(0.01)
        local start = concur.now()
        assert(dns.resolve("slow-10", 80))
        assert(concur.now() - start < 0.9)
        assert(not job:done())
        job:result()
      end)
    ]]
  end)

  it("that is cancelled lets its task go on at once; the late result is dropped", function()
    run_with_slow_names [[
      concur.run(function()
        local start = concur.now()
        assert(not concur.move_on_after(0.02, dns.resolve, "slow-700", 80))
        assert(not concur.move_on_after(0.02, dns.reverse, "127.0.0.9"))
        -- more than there are threads: the last ones are still in the queue
        local tasks = {}
        for i = 1, 20 do
          tasks[i] = concur.spawn(dns.resolve, "slow-300", i)
        end
        concur.sleep(0.01)
        for i = 1, 20 do
          tasks[i]:cancel()
        end
        concur.wait(tasks)
        for i = 1, 20 do
          assert(tasks[i]:cancelled())
        end
        assert(concur.now() - start < 0.6 * scale)
        assert(dns.resolve("slow-1", 80)) -- behind what still runs for nobody
        assert(require("concur.core").counters().jobs == 0)
      end)
    ]]
  end)

  it("that still runs does not hold up the end of the program", function()
    run_with_slow_names [[
      local start = concur.now()
      concur.spawn(dns.resolve, "slow-60000", 80)
      concur.sleep(0.01)
      local before = os.time()
      concur.get_event_loop():close()
      assert(os.time() - before < 10)
    ]]
  end)

  it("that ends after the loop, or whose task was killed, is forgotten", function()
    run_with_slow_names [[
      concur.run(function()
        local task = concur.spawn(dns.resolve, "slow-50", 80)
        concur.sleep(0.01)
        task:kill()
        concur.sleep(0)
        assert(task:done())
        concur.sleep(0.1) -- its answer comes
        concur.spawn(dns.resolve, "slow-400", 80)
        concur.sleep(0.01)
      end)
      concur.spawn(dns.resolve, "slow-400", 80)
      concur.sleep(0.01)
      concur.get_event_loop():close()
      os.execute "sleep 0.5"
      assert(dns.resolve("slow-1", 80))
    ]]
  end)

  it("names each kind of failure", function()
    local out = run_with_slow_names [[
      for _, name in ipairs { "empty", "again", "broken" } do
        local ok, err = dns.resolve(name, 80)
        print(ok, err.code, err.address, err.call)
      end
    ]]
    assert.equal("nil\tEAI_NONAME\tempty\tresolve\nnil\tEAI_AGAIN\tagain\tresolve\n" ..
      "nil\tEMFILE\tbroken\tresolve\n", out)
    -- the numbers of glibc's netdb.h
    out = run_with_slow_names [[
      for _, number in ipairs { -1, -4, -6, -7, -8, -10, -12, -99 } do
        print(select(2, dns.resolve("error" .. number, 80)).code)
      end
    ]]
    assert.equal("EAI_BADFLAGS\nEAI_FAIL\nEAI_FAMILY\nEAI_SOCKTYPE\nEAI_SERVICE\nEAI_MEMORY\n"
      .. "EAI_OVERFLOW\nEAI_NONAME\n", out)
  end)
end)
