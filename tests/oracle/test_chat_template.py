"""Chat templates against jinja2 under transformers' settings: real templates over many conversations, and the language piece by piece."""
import itertools
import json
import pathlib

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

import text_tool

pytestmark = pytest.mark.fast
TEMPLATES = sorted((pathlib.Path(__file__).resolve().parents[1] / "golden" / "templates").glob("*.jinja"))

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Get \"weather\" <b>now</b> – città", "parameters": {
        "type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "name", "enum": ["a", "b"]}, "n": {"type": "integer", "default": 1.5},
            "opts": {"type": "array", "items": {"type": "string"}},
            "deep": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}}}}},
    {"type": "function", "function": {"name": "noop", "description": "nothing", "parameters": {"type": "object", "properties": {}}}},
]


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def tool_call(i, **arguments):
    return {"id": f"call{i:05d}", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def tool(i, content):
    return {"role": "tool", "content": content, "name": "get_weather", "tool_call_id": f"call{i:05d}"}


CONVERSATIONS = [
    [user("Hi")],
    [system("You are <nice> & \"good\"."), user("Hello\n\n  there 你好")],
    [system("sys"), user("a"), assistant("b"), user("c"), assistant("<think>\nhmm\n</think>\n\nanswer"), user("d")],
    [user("a"), assistant("x", reasoning_content="because\n"), user("b"), assistant("y", reasoning_content="since")],
    [system("s"), user("weather?"), assistant("", tool_calls=[tool_call(1, city="Rome", n=2, opts=["a", None, True], deep={"x": 1.0})]),
     tool(1, "{\"t\": 20}"), assistant("20 degrees"), user("thanks")],
    [user("two"), assistant("let me see", tool_calls=[tool_call(1, city="Rome"), tool_call(2, city="Öslo")]), tool(1, "1"), tool(2, "2")],
    [user([{"type": "text", "text": "part one"}, {"type": "text", "text": " part two"}]), assistant([{"type": "text", "text": "ok"}])],
    [assistant("starts with assistant"), user("x")],
    [],
    [system("only system")],
    [user("<tool_response>\nfake\n</tool_response>"), assistant("z"), user("q")],
    [{"role": "developer", "content": "dev"}, user("x"), assistant("t", thinking="deep"), user("y")],
]
EXTRAS = [{}, {"enable_thinking": False}, {"enable_thinking": True, "add_generation_prompt": True}, {"add_generation_prompt": True, "thinking": True}]


def rendered(jobs):
    """(template, variables) each -> ("ok" or "error", text) by Ponte."""
    frames = [json.dumps({"template": t, "variables": v}).encode() for t, v in jobs]
    return [tuple(f.decode().split("\n", 1)) for f in text_tool.byte_frames(text_tool.run(["render"], frames))]


def wanted(template, variables):
    try:
        return "ok", _compile_jinja_template(template).render(**variables)
    except Exception as e:
        return "error", f"{type(e).__name__}: {e}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_real_templates(path):
    source = path.read_text()
    jobs = []
    for messages, tools, extra in itertools.product(CONVERSATIONS, (None, TOOLS), EXTRAS):
        jobs.append((source, {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": False, "bos_token": "<s>", "eos_token": "</s>",
                              **extra}))
    good = 0
    for (template, variables), got in zip(jobs, rendered(jobs)):
        want = wanted(template, variables)
        assert got[0] == want[0], (variables["messages"], got, want)
        if want[0] == "ok":
            assert got[1] == want[1]
            good += 1
    assert good > len(jobs) // 4  # the conversations must mostly be ones the template takes


VALUES = {"s": "Hello, Wörld ", "n": 7, "f": 2.5, "xs": [3, 1, 2], "names": ["b", "A", "c"], "d": {"b": 1, "a": [1, "x", None, True, {"k": "it's"}], "items": 5},
          "e": [], "none": None, "users": [{"name": "x", "age": 3, "ok": True}, {"name": "Y", "age": 1, "ok": False}, {"name": "z", "age": 2}],
          "nl": "a\nb\n\nc", "html": "<a href=\"x\">'&'</a>"}
SNIPPETS = r"""
{{ s }}|{{ n }}|{{ f }}|{{ xs }}|{{ d }}|{{ none }}|{{ true }}|{{ missing }}|{{ 1.0 }}|{{ 1e20 }}|{{ 1e-7 }}|{{ 0.1 + 0.2 }}
{{ n + 1 }} {{ n - 10 }} {{ n * 3 }} {{ n / 2 }} {{ n // 2 }} {{ -n // 2 }} {{ n % 3 }} {{ -n % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ -n|abs }} {{ (-n)|abs }} {{ - 2 ** 2 }} {{ +n }} {{ not n }} {{ not not n }} {{ true + true }} {{ 1_000 }}
{{ 'a' ~ 1 ~ none ~ missing ~ 2.0 ~ [1, 'x'] }} {{ 'ab' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ (1, 2) + (3,) }} {{ 'a' 'b' "c" }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 'x' == 1 }} {{ none == none }} {{ missing == none }} {{ true == 1 }}
{{ 1 in xs }} {{ 9 not in xs }} {{ 'ell' in s }} {{ 'b' in d }} {{ 'zz' in d }} {{ 1 in (1, 2) }} {{ 'a' in missing }}
{{ s[0] }} {{ s[-2] }} {{ s[1:4] }} {{ s[::-1] }} {{ xs[1:] }} {{ xs[:-1] }} {{ xs[::2] }} {{ xs[-100:100] }} {{ xs[5:] }} {{ s[7:100:2] }} {{ xs[::-2] }} {{ xs[99] }} {{ s[99] }}
{{ d.b }} {{ d['b'] }} {{ d.a[4].k }} {{ d['items'] }} {{ d.missing }} {{ d['missing'] is defined }} {{ users[0].name }} {{ xs.0 }}
{{ d.get('b') }} {{ d.get('q') }} {{ d.get('q', 3) }} {{ d.keys()|list }} {{ d.values()|list|length }} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{{ 'yes' if n > 3 else 'no' }} {{ 'yes' if n > 30 }} {{ ('a' if false) is defined }} {{ 'a' if n if e else 'b' }}
{{ n and s }} {{ e or 'empty' }} {{ none or missing or 3 }} {{ 0 and missing.x }} {{ n > 3 and not e }}
{% if n == 7 %}A{% elif n == 8 %}B{% else %}C{% endif %}{% if e %}x{% elif xs %}y{% endif %}
{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ x }} {% else %}none{% endfor %}
{% for x in e %}{{ x }}{% else %}nothing{% endfor %}{% for c in 'añ' %}[{{ c }}]{% endfor %}{% for k in d %}{{ k }},{% endfor %}
{% for x in xs if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}{% for x in xs if x > 5 %}{% else %}no{% endfor %}
{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.cycle('odd', 'even') }} {{ loop.changed(x > 1) }};{% endfor %}
{% for x in [1,2,3,4,5] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for u in users recursive %}{{ u.name }}{{ loop.depth }}{% if u.kids %}{{ loop(u.kids) }}{% endif %}{% endfor %}
{% for a in [{'n': 1, 'k': [{'n': 2, 'k': [{'n': 3}]}]}] recursive %}{{ a.n }}:{{ loop.depth0 }}({% if a.k %}{{ loop(a.k) }}{% endif %}){% endfor %}
{% for a, b in [[1, 2], [3, 4]] %}{{ a }}-{{ b }} {% endfor %}{% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% set x = 1 %}{% for i in xs %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}
{% set ns = namespace(a=1, b='q') %}{% for i in xs %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.zz is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t = 1, %}{{ t }}{% set q %}block {{ n }}{% endset %}[{{ q }}]{% set q | upper %}abc{% endset %}{{ q }}
{% if true %}{% set inner = 5 %}{% endif %}{{ inner }}{% with z = 3, y = n %}{{ z }}{{ y }}{% set n = 100 %}{% endwith %}{{ z }}{{ n }}
{% macro m(a, b=2, c='x') %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, c=9) }}{{ m(b=5, a=4) }}{{ m() }}{{ m('q')|upper }}
{% macro v(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ v(1, 2, 3, k=4) }}{{ v(*[1, 2], **{'z': 3}) }}
{% macro outer() %}[{{ caller('q') }}]{% endmacro %}{% call(x) outer() %}in {{ x }} {{ n }}{% endcall %}
{% macro fact(k) %}{% if k > 1 %}{{ k }}*{{ fact(k - 1) }}{% else %}1{% endif %}{% endmacro %}{{ fact(5) }}
{% set g = 'before' %}{% macro show() %}{{ g }}{% endmacro %}{% set g = 'after' %}{{ show() }}{% for i in [1] %}{% set g = 'loop' %}{{ show() }}{% endfor %}
{% filter upper %}abc {{ n }}{% endfilter %} {% generation %}gen {{ n }}{% endgeneration %} {% raw %}{{ raw }} {% if %}{% endraw %} {# comment {{ n }} #}x
{{ s|upper }} {{ s|lower }} {{ s|trim }} {{ s|title }} {{ s|capitalize }} {{ s|length }} {{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 1) }} {{ s|reverse }} {{ s|first }} {{ s|last }}
{{ xs|sort }} {{ xs|sort(reverse=true) }} {{ names|sort }} {{ names|sort(case_sensitive=true) }} {{ users|sort(attribute='age')|map(attribute='name')|join(',') }} {{ xs|max }} {{ xs|min }} {{ xs|sum }}
{{ xs|join('-') }} {{ users|join(', ', attribute='name') }} {{ xs|first }} {{ e|first }} {{ xs|last }} {{ xs|reverse|list }} {{ xs|list }} {{ s|list|length }} {{ xs|count }}
{{ users|selectattr('ok')|map(attribute='name')|list }} {{ users|rejectattr('ok')|list|length }} {{ users|selectattr('age', 'gt', 1)|map(attribute='age')|list }} {{ xs|select('odd')|list }} {{ xs|reject('equalto', 2)|list }} {{ names|map('upper')|list }} {{ users|map(attribute='ok', default='?')|list }} {{ none|select|list }}
{{ missing|default('D') }} {{ none|default('D') }} {{ none|default('D', true) }} {{ ''|d('x', boolean=true) }} {{ n|default(1) }} {{ d|dictsort }} {{ d|items|list|length }} {{ xs|batch(2)|list }} {{ [1, 1, 'a', 'A']|unique|list }}
{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ 3.9|int }} {{ '2.5'|float }} {{ 'q'|float }} {{ 2.567|round(1) }} {{ 2.5|round }} {{ 3|round }} {{ 2.1|round(method='ceil') }} {{ n|string + '!' }} {{ true|string }}
{{ d|tojson }} {{ s|tojson }} {{ html|tojson }} {{ d|tojson(indent=2) }} {{ [1, 2]|tojson(separators=(',', ':')) }} {{ {'é': '日本', 'z': 1.5, 'a': []}|tojson(sort_keys=true) }} {{ 'é🙂'|tojson(ensure_ascii=true) }} {{ {1: 2, none: true, true: {}}|tojson }} {{ (1, 2)|tojson }} {{ "a\u2028\x7f\x01/"|tojson }}
{{ nl|indent }} {{ nl|indent(2, true) }} {{ nl|indent(2, blank=true) }} {{ html|e }} {{ html|escape|e }} {{ html|safe }} {{ ('<' + (html|safe)) }} {{ 'a b  c'|wordcount }}
{{ s.strip() }}| {{ s.lstrip('He') }} {{ s.rstrip() }}| {{ s.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b c d'.split(none, 2) }} {{ '<>'.split('<>') }} {{ ''.split() }} {{ ''.split(',') }}
{{ s.startswith('Hell') }} {{ s.endswith(('x', ' ')) }} {{ s.replace('l', '') }} {{ s.upper() }} {{ s.find('W') }} {{ s.find('zz') }} {{ s.count('l') }} {{ 'abc'.isdigit() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ ','.join(['a', 'b']) }} {{ nl.splitlines() }} {{ 'aXbX'.rfind('X') }} {{ 'abc'.title() }} {{ 'x'.replace('', '-') }} {{ 'prefix'.removeprefix('pre') }} {{ 'äÖ'.upper() }} {{ 'ÄÖ'.lower() }}
{{ n is number }} {{ n is string }} {{ s is string }} {{ xs is iterable }} {{ d is mapping }} {{ xs is mapping }} {{ none is none }} {{ n is not none }} {{ missing is defined }} {{ missing is undefined }} {{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(3) }} {{ true is boolean }} {{ 1 is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ n is integer }} {{ true is integer }} {{ f is float }} {{ xs is sequence }} {{ s is sequence }} {{ missing is sequence }} {{ missing is iterable }} {{ n is sequence }} {{ n is eq 7 }} {{ n is in [7] }} {{ n is gt 3 }} {{ 'a' is lower }} {{ range is callable }} {{ none is sameas none }} {{ true is number }}
{{ range(3)|list }} {{ range(2, 8, 3)|list }} {{ range(5, 0, -2)|list }} {{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ {'a': 1, 'b': {'c': [1, 2.0, "q'\"\n"]}} }} {{ [] }} {{ {} }} {{ () }} {{ (1,) }} {{ ('a', none) }}
{{ "\x41\u00e9\n\t\\ \' \" \q \101" }} {{ 'it''s' }} {{ ["it's", 'a"b', "both'\"", "\u200b\x01é"] }}
  {% if true %}  
   indented
  {% endif %}  
end
line {%- if true -%}   trimmed   {%- endif %} x {{- ' y ' -}} z
   {%+ if true %}plus{% endif +%}
after
{# c #}
  {# c2 #}  
text {#- c3 -#}  more
{{ {'a': {'b': 1}}['a']['b'] }} {{ {'}}': 1}['}}'] }} {{ [[1, 2], [3]][0][1] }} {{ '%}' }} {{ {} | tojson }} {{ {'x': [{}]}|tojson }}
{{ (xs|length > 2) and (s|length) > 3 }} {{ xs|length - 1 }} {{ n in xs or 'q' }} {{ not n in xs }} {{ (n) is not string and true }} {{ 'a' ~ 'b' in 'cab' }} {{ 1 + 2 ~ 3 }}
{{ missing.x }}
{{ missing() }}
{{ none.x }}
{{ none.x.y }}
{{ n.foo() }}
{{ 1 / 0 }}
{{ 'a' + 1 }}
{{ missing + 1 }}
{{ xs.append(4) }}
{{ d.update({'x': 1}) }}
{{ d.pop('b') }}
{{ s.__class__ }}
{{ raise_exception('stop here') }}
{{ [1, 'a']|sort }}
{{ n|length }}
{{ for }}
{% if %}x{% endif %}
{% if n %}x
{% for x in n %}x{% endfor %}
{% endif %}
{% unknown %}
{{ n|nosuchfilter }}
{{ n is nosuchtest }}
{{ 'abc }}
{{ (1, 2 }}
{{ 1 ] }}
{# unclosed
{% set x.y = 1 %}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(z=1) }}
{{ range(1000000)|list|length }}
{% break %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
""".strip("\n").split("\n")
SNIPPETS += ["\n".join(SNIPPETS[SNIPPETS.index("  {% if true %}  ") : SNIPPETS.index("text {#- c3 -#}  more") + 1])]
SNIPPETS += ["a\r\nb{% if true %}\r\nc{% endif %}\n", "x\n\n", "{{ 1 }}\n", "{% set x = 1 %}\n\n  {{ x }}", "{%- for i in [1,2] %}\n  {{- i }}\n{%- endfor %}\n"]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_language(snippet):
    (got,) = rendered([(snippet, VALUES)])
    want = wanted(snippet, VALUES)
    assert got[0] == want[0], (got, want)
    if want[0] == "ok":
        assert got[1] == want[1]


@pytest.mark.parametrize("snippet, line, message", [
    ("a\n\n{{ missing.x }}", 3, "'missing' is undefined"),
    ("{% if true %}\n{{ raise_exception('no tools here') }}{% endif %}", 2, "no tools here"),
    ("a\n{% include 'x' %}", 2, "'include' is not supported"),
    ("\n{% if x %}", 2, ""),
])
def test_errors_name_the_line(snippet, line, message):
    (got,) = rendered([(snippet, VALUES)])
    assert got[0] == "error" and f"template, line {line}:" in got[1] and message in got[1], got


@pytest.mark.parametrize("bomb", [
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ 'x' * 100000000000 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "1 + " * 50000 + "1 }}",
    "{{ " + "not " * 5000 + "1 }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "{{ [" * 1 + "[" * 3000 + "]" * 3000 + "] }}",
])
def test_bombs_are_errors(bomb):
    (got,) = rendered([(bomb, {})])
    assert got[0] == "error", got
